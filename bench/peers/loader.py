"""Measures torchvision's loader on a folder of photos: the peer of `cargo xtask data speed`.

    python loader.py FOLDER [--backend pil|tensor|io] [--workers 2] [--size 224] [--jitter 0.4] [--seconds 5]

Photos are decoded, cropped at random, flipped, jittered and normalised into batches. `pil` transforms Pillow's images,
as torchvision's references do by default; `tensor` decodes with Pillow and then uses v2's transforms of uint8 tensors;
`io` does the same with torchvision's own decoder.
"""

import argparse
import time

import torch
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--backend", choices=["pil", "tensor", "io"], default="pil")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--jitter", type=float, default=0.4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    jitter = [v2.ColorJitter(args.jitter, args.jitter, args.jitter)] if args.jitter else []
    crop = [v2.RandomResizedCrop(args.size, antialias=True), v2.RandomHorizontalFlip(), *jitter]
    steps = {"pil": [*crop, v2.PILToTensor()], "tensor": [v2.PILToTensor(), *crop], "io": crop}[args.backend]
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), normalize])
    own = {"loader": lambda path: decode_image(path, mode=ImageReadMode.RGB)} if args.backend == "io" else {}
    photos = datasets.ImageFolder(args.folder, transform, **own)
    loader = torch.utils.data.DataLoader(photos, args.batch_size, shuffle=True, num_workers=args.workers,
                                         persistent_workers=args.workers > 0)
    epoch = lambda: sum(len(labels) for _, labels in loader)
    epoch()
    start, images = time.perf_counter(), 0
    while not images or time.perf_counter() - start < args.seconds:
        images += epoch()
    speed = images / (time.perf_counter() - start)
    print(f"{speed:.0f} images/s of {args.size}×{args.size} with {args.workers} workers, {args.backend}")


if __name__ == "__main__":
    main()
