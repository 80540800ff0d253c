"""Writes golden pixels of training transforms, from torchvision's v2 transforms over Pillow.

The image follows a formula that the Rust tests compute as well; for each case, the FNV-1a hash and samples of the
result are written.
"""

import json
import pathlib

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-data/tests/golden/transforms.json"
WIDTH, HEIGHT = 61, 47
FILL = [124, 116, 104]


def image():
    """Slanted waves with noise, whose channels have different ranges, (H, W, 3)."""
    i = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint64)
    x, y, c = (i // 3) % WIDTH, i // 3 // WIDTH, i % 3
    noise = (i * 2654435761 % (1 << 32)) >> 27
    return ((x * (2 + c) + y * (3 - c)) % 180 + 8 + 9 * c + noise).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return f"{value:016x}"


def case(name, value, result):
    pixels = np.asarray(result)
    return dict(name=name, value=value, size=[pixels.shape[1], pixels.shape[0]], hash=fnv(pixels.tobytes()),
                pixels=pixels.flatten()[::211].tolist())


def operations():
    """Every operation with fixed parameters; those of RandAugment as its own code calls them."""
    source = Image.fromarray(image())
    policy = v2.RandAugment(fill=FILL)

    def policy_op(kind, magnitude):
        nearest = F.InterpolationMode.NEAREST
        return policy._apply_image_or_video_transform(source, kind, magnitude, interpolation=nearest, fill=policy._fill)

    for kind, magnitudes in [
        ("ShearX", [0.3, -0.21, 0.99]),
        ("ShearY", [0.3, -0.17, -0.99]),
        ("TranslateX", [9.0, -14.0, 100.0]),
        ("TranslateY", [7.0, -20.0]),
        ("Rotate", [0.0, 9.0, -30.0, 90.0, 135.0, -77.7]),
        ("Brightness", [0.4, -0.4, 0.99, 0.0]),
        ("Color", [0.4, -0.4, 0.9, -0.9]),
        ("Contrast", [0.4, -0.4, 0.9, -0.9]),
        ("Sharpness", [0.4, -0.4, 0.9, -0.9]),
        ("Posterize", [8, 6, 4, 2, 1]),
        ("Solarize", [1.0, 0.7, 0.31, 0.0]),
        ("AutoContrast", [0.0]),
        ("Equalize", [0.0]),
        ("Identity", [0.0]),
    ]:
        for magnitude in magnitudes:
            yield case(kind, magnitude, policy_op(kind, magnitude))
    yield case("Invert", 0.0, F.invert(source))
    jittered = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(source, 1.31), 0.72), 1.17)
    yield case("Jitter", 0.0, jittered)


def crops():
    """Crops, resized: left, top, width, height, and the width and height of the result."""
    source = Image.fromarray(image())
    for numbers in [(5, 3, 40, 30, 24, 20), (0, 0, 61, 47, 32, 32), (50, 40, 9, 7, 33, 28), (17, 1, 1, 45, 8, 8)]:
        left, top, width, height, w, h = numbers
        for mode in ["bilinear", "bicubic"]:
            result = F.resized_crop(source, top, left, height, width, [h, w], F.InterpolationMode(mode), True)
            yield dict(case(mode, 0.0, result), crop=list(numbers))


def mixed():
    """Batches of four images, mixed with those before them."""
    flat = (torch.arange(4 * 3 * 6 * 5) * 37 % 101).float().reshape(4, 3, 6, 5) / 100 - 0.5
    labels = torch.tensor([0, 2, 1, 2])
    own = torch.nn.functional.one_hot(labels, 3).float()
    for name, mix, params in [
        ("mixup", v2.MixUp(num_classes=3), dict(lam=0.3)),
        ("cutmix", v2.CutMix(num_classes=3), dict(box=(1, 2, 4, 6), lam_adjusted=1 - 12 / 30)),
    ]:
        params = dict(params, labels=labels, batch_size=4)
        images = mix.transform(flat.clone(), params)
        share = params.get("lam", params.get("lam_adjusted"))
        targets = own.roll(1, 0) * (1 - share) + own * share
        assert torch.allclose(mix.transform(labels, params), targets)
        yield dict(name=name, images=images.permute(0, 2, 3, 1).flatten().tolist(), targets=targets.flatten().tolist())


def erased():
    """A rectangle of zeros: left, top, width, height 2, 1, 3, 4."""
    flat = (torch.arange(3 * 6 * 7) * 37 % 101).float().reshape(3, 6, 7) / 100
    return F.erase(flat, 1, 2, 4, 3, torch.zeros(3, 4, 3)).permute(1, 2, 0).flatten().tolist()


def lighting():
    """PCA lighting as in fb.resnet.torch, for fixed factors of the three components."""
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    return (vectors * values * np.array([0.1, -0.25, 0.4])).sum(1).tolist()


golden = dict(operations=list(operations()), crops=list(crops()), mixed=list(mixed()), erased=erased(),
              lighting=lighting())
OUT.write_text(json.dumps(golden) + "\n")
