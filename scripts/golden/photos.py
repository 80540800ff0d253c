"""Writes golden pixels of the evaluation transform and of decoding, from torchvision and Pillow.

The transform's photos follow a formula that the Rust tests compute as well; for each, samples of the crop, its
FNV-1a hash and samples of the normalised input are written. The files to decode are small and stored as they are.
"""

import json
import pathlib

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

from formula import noise

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-data/tests/golden"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photo(width, height):
    """A noisy wave per colour channel, (H, W, 3)."""
    i = np.arange(width * height * 3)
    x, y, c = (i // 3) % width, i // 3 // width, i % 3
    wave = (x * (3 + c) + y * (5 - c)) % 256
    return ((wave + np.floor(64 * (noise(len(i), "photo") + 1))) % 256).astype(np.uint8).reshape(height, width, 3)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return f"{value:016x}"


def transformed(width, height, resize, crop, mode):
    image = Image.fromarray(photo(width, height))
    image = F.resize(image, resize, getattr(F.InterpolationMode, mode.upper()), antialias=True)
    image = F.center_crop(image, list(crop))
    input = F.normalize(F.pil_to_tensor(image).float() / 255, MEAN, STD).permute(1, 2, 0)
    pixels = np.asarray(image)
    step = pixels.size // 40
    return dict(photo=[width, height], resize=resize, crop=crop, mode=mode, hash=fnv(pixels.tobytes()), step=step,
                pixels=pixels.flatten()[::step].tolist(), input=input.flatten()[::step].tolist())


def written():
    """Writes one file of every kind; returns its name, size, tolerance and samples of the pixels a viewer shows."""
    folder = OUT / "files"
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:36, 0:52]
    smooth = np.stack([4 * x + y, 200 - 3 * x + y, 40 + 2 * x + 3 * y], -1).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(smooth)
    alpha = Image.fromarray(np.where(x < 26, 255, np.where(x < 40, 128, 0)).astype(np.uint8))
    files = []

    def save(name, image, tolerance, expected=None, **options):
        image.save(folder / name, **options)
        seen = expected or ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB")
        files.append(dict(file=name, size=list(seen.size), tolerance=tolerance,
                          pixels=np.asarray(seen).flatten()[::97].tolist()))

    save("420.jpg", image, 4, quality=90)
    save("444-progressive.jpg", image, 3, quality=90, subsampling=0, progressive=True)
    save("grey.jpg", image.convert("L"), 2, quality=90)
    save("cmyk.jpg", image.convert("CMYK"), 5, quality=95)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"orientation-{orientation}.jpg", image, 4, quality=90, exif=exif)
    save("palette.png", image.quantize(16), 0)
    over = Image.new("RGB", image.size, "white")
    over.paste(image, mask=alpha)
    save("alpha.png", Image.merge("RGBA", (*image.split(), alpha)), 1, over)
    grey = image.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    save("16-bit.png", deep, 0, grey.convert("RGB"))
    save("animated.gif", image.quantize(64), 0, image.quantize(64).convert("RGB"), save_all=True,
         append_images=[Image.new("RGB", image.size, "red")])
    save("lossless.webp", image, 0, lossless=True)
    save("plain.bmp", image, 0)
    save("plain.tiff", image, 0)
    return files


cases = [
    transformed(400, 534, 256, (224, 224), "bilinear"),
    transformed(400, 534, 235, (224, 224), "bicubic"),
    transformed(534, 400, 235, (224, 224), "bicubic"),
    transformed(1000, 700, 232, (224, 224), "bilinear"),
    transformed(100, 37, 256, (224, 224), "bilinear"),
    transformed(31, 90, 235, (224, 224), "bicubic"),
    transformed(256, 300, 256, (224, 224), "bilinear"),
    transformed(333, 251, 320, (288, 288), "bicubic"),
    transformed(3, 2, 64, (50, 61), "bicubic"),
    transformed(97, 61, 32, (48, 40), "bilinear"),
    transformed(1, 900, 40, (32, 32), "bilinear"),
]
OUT.mkdir(exist_ok=True)
(OUT / "photos.json").write_text(json.dumps(dict(transform=cases, files=written())) + "\n")
