"""Writes golden logits of the Inceptions of timm and VGG of torchvision, with weights and images by formula, and prints
their parameters. Images are about as small as the networks take them.
"""

import json

import timm
import torch
import torchvision

from formula import fill, images
from networks import OUT

NETWORKS = {
    "inception_v3": (1, 3, 75, 91),
    "inception_v4": (1, 3, 75, 91),
    "inception_resnet_v2": (1, 3, 75, 91),
    "vgg16_bn": (1, 3, 32, 64),
    "vgg19_bn": (1, 3, 32, 32),
}
CLASSES = 50


def build(name, classes=1000):
    if name.startswith("vgg"):
        return getattr(torchvision.models, name)(num_classes=classes)
    return timm.create_model(name, num_classes=classes)


def main():
    golden = {}
    for name, shape in NETWORKS.items():
        with torch.device("meta"):
            print(name, sum(p.numel() for p in build(name).parameters()), "parameters")
        model, x = fill(build(name, CLASSES)), torch.from_numpy(images(shape))
        with torch.no_grad():
            single = model(x).double()
            logits = model.double()(x.double())
        print(name, "f32 beside f64:", ((single - logits).abs().max() / logits.abs().max()).item(), logits.abs().max().item())
        golden[name] = dict(images=shape, logits=[float(f"{v:.9g}") for v in logits.flatten().tolist()])
    (OUT / "baselines.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
