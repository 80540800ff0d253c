"""Compares the multiply-adds and parameters of `cargo xtask summary` with fvcore's count of convolutions and linear layers
in timm's and torchvision's networks, each at its own size.

    python scripts/golden/multiply_adds.py [path of xtask]
"""

import subprocess
import sys

import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torchvision.models.resnet import Bottleneck, ResNet

XTASK = sys.argv[1] if len(sys.argv) > 1 else "target/release/xtask"
NETWORKS = {
    "resnet101": 224, "resnet200": 224, "resnet101_1x100d": 224, "inception_v3": 299, "inception_v4": 299,
    "inception_resnet_v2": 299, "resnext101_32x4d": 224, "resnext101_64x4d": 224, "vgg16_bn": 224, "vgg19_bn": 224,
    "resnet50d": 224, "resnext50d_32x4d": 224, "resnet26t": 224, "resnet50s": 224, "seresnext50_32x4d": 224,
    "seresnext101d_32x8d": 224, "resnetaa50": 224, "seresnextaa101d_32x8d": 288, "resnetblur50": 224,
    "ecaresnet50d": 224, "resnet18d": 224,
}


def build(name):
    if name == "resnet101_1x100d":
        return ResNet(Bottleneck, [3, 4, 23, 3], width_per_group=100)
    if name.startswith("vgg"):
        return getattr(torchvision.models, name)()
    return timm.create_model(name)


def ours(name, size):
    """Parameters and multiply-adds: the sums of the table's last two columns."""
    text = subprocess.run([XTASK, "summary", name, "--size", str(size)], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in text.splitlines()[1:] if len(line.split()) >= 5 and line.split()[-1].isdigit()]
    return sum(int(row[-2]) for row in rows), sum(int(row[-1]) for row in rows)


for name, size in NETWORKS.items():
    model = build(name).eval()
    count = FlopCountAnalysis(model, torch.zeros(1, 3, size, size)).unsupported_ops_warnings(False)
    operators = count.uncalled_modules_warnings(False).by_operator()
    theirs = operators["conv"] + operators["linear"]
    parameters, multiply_adds = ours(name, size)
    difference = abs(multiply_adds / theirs - 1)
    print(f"{name} at {size}: {parameters} parameters, {multiply_adds} multiply-adds, fvcore {theirs}, {difference:.2%}")
    assert parameters == sum(p.numel() for p in model.parameters()) and difference < 1e-3
