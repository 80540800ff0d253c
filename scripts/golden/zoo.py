"""Checks `cargo xtask predict` on every ResNet and ResNeXt that timm can build, and on the Inceptions and VGG, each
written as a folder like the hub's: predict must give timm's logits, or refuse in one line those with layers that it
does not have. `OTHERS` in relatives.py says which these are, and why. The largest network takes 10 GB of memory and 2 GB
of disk.

    python scripts/golden/zoo.py [path of xtask [names]]
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from formula import fill, noise
from relatives import OTHERS

XTASK = sys.argv[1] if len(sys.argv) > 1 else "target/release/xtask"
SIDE, CLASSES = 96, 10
BASELINES = ["inception_v3", "inception_v4", "inception_resnet_v2", "vgg16_bn", "vgg19_bn"]

same, refused, largest = [], [], 0.0
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    pixels = (128 * (noise(SIDE * SIDE * 3, "photo") + 1)).astype(np.uint8).reshape(SIDE, SIDE, 3)
    Image.fromarray(pixels).save(folder / "photo.png")
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for name in sys.argv[2:] or timm.list_models(module="resnet") + timm.list_models("legacy_se*") + BASELINES:
        model = fill(timm.create_model(name, num_classes=CLASSES))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(dict(
            architecture=name, num_classes=CLASSES, pretrained_cfg=dict(
                input_size=[3, SIDE, SIDE], crop_pct=1.0, interpolation="bilinear", mean=[0, 0, 0], std=[1, 1, 1]))))
        done = subprocess.run([XTASK, "predict", folder / "photo.png", "--weights", folder, "--json", "--topk", "10"],
                              capture_output=True, text=True)
        if done.returncode:
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
            assert OTHERS.search(name), f"{name} must run"
            refused.append(name)
            print(name, "refused:", done.stderr.strip().rsplit(": ", 1)[-1])
            continue
        ours = torch.zeros(CLASSES)
        for entry in json.loads(done.stdout)["top"]:
            ours[entry["class"]] = entry["probability"]
        with torch.no_grad():
            logits = model(x)[0]
        difference = float((ours.log() - logits.log_softmax(0)).abs().max() / logits.abs().max())
        print(name, f"difference {difference:.1e}", flush=True)
        assert difference < 2e-5
        same.append(name)
        largest = max(largest, difference)
print(len(same), f"with timm's logits, the largest difference {largest:.1e};", len(refused), "refused:", *refused)
