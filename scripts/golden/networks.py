"""Writes golden logits and stage maps of torchvision's networks, with weights and images by formula.

The figures are f64; the largest difference of torchvision's own f32 is printed, for scale.
"""

import json
import pathlib

import torch

from formula import images, network

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-model/tests/golden"
SAMPLES = 60
NETWORKS = {
    "resnext50_32x4d": (2, 3, 64, 96),
    "resnext101_64x4d": (1, 3, 64, 96),
    "resnet50": (2, 3, 64, 96),
    "resnet18": (2, 3, 64, 96),
    "resnext20_8x4d": (2, 3, 32, 32),
}


def run(model, x):
    maps = []
    hooks = [
        getattr(model, f"layer{i}").register_forward_hook(lambda _m, _i, y: maps.append(y.double()))
        for i in (1, 2, 3, 4)
        if not isinstance(getattr(model, f"layer{i}"), torch.nn.Identity)
    ]
    with torch.no_grad():
        logits = model(x).double()
    for hook in hooks:
        hook.remove()
    return logits, maps


def sampled(map):
    flat = map.flatten()
    step = flat.numel() // SAMPLES
    return dict(shape=list(map.shape), step=step, largest=map.abs().max().item(),
                values=[float(f"{v:.9g}") for v in flat[::step][:SAMPLES].tolist()])


def main():
    golden = {}
    for name, shape in NETWORKS.items():
        model, x = network(name), torch.from_numpy(images(shape))
        single, single_maps = run(model, x)
        logits, maps = run(model.double(), x.double())
        relative = lambda a, b: ((a - b).abs().max() / b.abs().max()).item()
        print(name, "f32 beside f64: logits", relative(single, logits),
              "maps", [relative(a, b) for a, b in zip(single_maps, maps)], "largest logit", logits.abs().max().item())
        golden[name] = dict(images=shape, logits=[float(f"{v:.9g}") for v in logits.flatten().tolist()],
                            maps=[sampled(map) for map in maps])
    OUT.mkdir(exist_ok=True)
    (OUT / "networks.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
