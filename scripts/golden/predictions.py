"""Compares `cargo xtask predict` with torchvision on photos: the same files through Pillow, torchvision's transform
and torchvision's network, with the formula's weights.

    python scripts/golden/predictions.py FOLDER_OF_JPEGS [path of xtask]
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torchvision.transforms._presets import ImageClassification

from formula import network

photos = sorted(path for path in pathlib.Path(sys.argv[1]).rglob("*.jpg"))[:50]
xtask = sys.argv[2] if len(sys.argv) > 2 else "target/release/xtask"
model = network("resnext50_32x4d")
transform = ImageClassification(crop_size=224, resize_size=256)
with tempfile.TemporaryDirectory() as folder:
    weights = pathlib.Path(folder) / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    lines = subprocess.run([xtask, "predict", *photos, "--json", "--topk", "1000", "--weights", weights],
                           check=True, capture_output=True, text=True).stdout.splitlines()
worst, same = 0.0, 0
for path, line in zip(photos, lines, strict=True):
    with torch.no_grad():
        logits = model(transform(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[None])[0].double()
    ours = torch.zeros(1000, dtype=torch.float64)
    for entry in json.loads(line)["top"]:
        ours[entry["class"]] = entry["probability"]
    expected = logits.softmax(0)
    worst = max(worst, ((ours.log() - expected.log()).abs().max() / logits.abs().max()).item())
    same += int(ours.argmax() == expected.argmax())
print(f"{len(photos)} photos: the same first class for {same}, largest difference of a logit "
      f"{worst:.1e} of the largest one")
