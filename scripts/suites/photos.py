"""Decodes the files of public test suites with this project and with Pillow, and lists those that differ.

    cargo build --release -p resnext-data --example decode_photos
    python scripts/suites/photos.py --decoder target/release/examples/decode_photos FOLDER...

Every file in the folders whose contents are of a format that this project reads is compared: its size, which shows
the orientation, and its pixels. docs/photos.md explains the files that differ.
"""

import argparse
import collections
import pathlib
import subprocess
import sys
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "QOI")
# First bytes of the same formats, for files that Pillow does not open.
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
          b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"\0\0\1\0", b"qoif")
# Lossless formats must agree but for the rounding of 16 bits and of blending. Decoders of JPEG and of lossy WebP
# round and upsample chroma in their own ways: the mean difference decides.
EXACT, MEAN = 1, 1.0


def reference(path):
    """Pillow's pixels (H, W, 3) over white, its mode, and what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=FORMATS)
            image.load()
            mode = image.mode
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:  # Damaged metadata is no reason not to show a photo.
                pass
            return np.asarray(over_white(image)), f"{image.format or ''} {mode}", None
    except Exception as error:
        return None, "", f"{type(error).__name__}: {error}"


def over_white(image):
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        pixels = np.asarray(image).astype(np.int64)
        eight = (pixels >> 8).clip(0, 255).astype(np.uint8)
        # Pillow keeps a transparent grey of 16 bits as a number and applies it nowhere.
        if isinstance(image.info.get("transparency"), int):
            eight[pixels == image.info["transparency"]] = 255
        return Image.fromarray(eight).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def decoded(process, path):
    process.stdin.write(f"{path}\n".encode())
    process.stdin.flush()
    line = process.stdout.readline().decode(errors="replace").rstrip("\n")
    if not line:
        return None, "the program ended"
    kind, _, rest = line.partition(" ")
    if kind == "error":
        return None, rest.removeprefix(f"{path}: ")
    width, height, note = rest.split(" ", 2)
    width, height = int(width), int(height)
    data = process.stdout.read(width * height * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3), note


def verdict(path, ours, message, theirs, error):
    if ours is None and theirs is None:
        return "neither reads it", message
    if ours is None:
        kind = "not read, by name" if "which is not read" in message or "pixels" in message[:30] else "DIFFERS"
        return kind, message
    if theirs is None:
        return "only ours reads it", f"{message} | Pillow: {error}"
    if ours.shape != theirs.shape:
        return "DIFFERS", f"size {ours.shape[1]}×{ours.shape[0]}, Pillow {theirs.shape[1]}×{theirs.shape[0]}"
    difference = np.abs(ours.astype(np.int16) - theirs)
    mean, largest = difference.mean(), difference.max()
    start = path.open("rb").read(12)
    lossy = start[:2] == b"\xff\xd8" or start[8:] == b"WEBP" or start[:2] in (b"II", b"MM")
    if largest <= EXACT or lossy and mean <= MEAN:
        return "same", f"mean difference {mean:.2f}, largest {largest} {message}"
    return "DIFFERS", f"mean difference {mean:.2f}, largest {largest} {message}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--decoder", required=True, help="the built example decode_photos")
    parser.add_argument("--all", action="store_true", help="list every file with its verdict")
    arguments = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = 1 << 28
    Image.init()
    paths = sorted(path for folder in arguments.folders for path in folder.rglob("*") if path.is_file())
    paths = [path for path in paths if path.open("rb").read(4).startswith(STARTS)]
    start = lambda: subprocess.Popen([arguments.decoder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process, counts = start(), collections.Counter()
    for path in paths:
        ours, message = decoded(process, path)
        if process.poll() is not None or message == "the program ended":
            process = start()
        theirs, mode, error = reference(path)
        kind, detail = verdict(path, ours, message, theirs, error)
        counts[kind] += 1
        if kind == "DIFFERS" or arguments.all:
            print(f"{kind}\t{path}\t{mode}\t{detail}", flush=True)
    for kind, count in counts.most_common():
        print(f"{count:6} {kind}")
    return 1 if counts["DIFFERS"] > 20 else 0


if __name__ == "__main__":
    sys.exit(main())
