"""Writes golden logits and stage maps of networks with everything that timm adds to torchvision's ResNets, small ones,
with weights and images by formula; and the parameters of all of timm's networks of these families.
"""

import json
import pathlib
import re

import timm
import torch
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from formula import fill, images
from networks import OUT, run, sampled

# The names are of our grammar: timm has no networks of these sizes.
NETWORKS = {
    "seresnextaa14d_32x4d": dict(block=Bottleneck, layers=[1] * 4, cardinality=32, base_width=4, stem_width=32,
                                 stem_type="deep", avg_down=True, aa_layer=torch.nn.AvgPool2d,
                                 block_args=dict(attn_layer="se")),
    "ecaresnetblur10t": dict(block=BasicBlock, layers=[1] * 4, stem_width=32, stem_type="deep_tiered", avg_down=True,
                             aa_layer=BlurPool2d, block_args=dict(attn_layer="eca")),
    "ecaresnet14s": dict(block=Bottleneck, layers=[1] * 4, stem_width=64, stem_type="deep",
                         block_args=dict(attn_layer="eca")),
}
# Networks that timm has beside these families, but which have other layers: group norm (gn); channels of any number, as
# pruning left them (pruned); a strided convolution in the place of the stem's pool (resnetrs); a 3×3 shortcut (senet154);
# other names of weights and a stride in the first 1×1 (legacy); blocks of two kinds, for timm's tests (test).
OTHERS = re.compile("gn|pruned|rs|senet154|legacy|test")


def main():
    golden = {}
    for name, arguments in NETWORKS.items():
        model, x = fill(ResNet(**arguments, num_classes=100)), torch.from_numpy(images((1, 3, 64, 96)))
        single, _ = run(model, x)
        logits, maps = run(model.double(), x.double())
        print(name, "f32 beside f64:", ((single - logits).abs().max() / logits.abs().max()).item())
        golden[name] = dict(images=list(x.shape), logits=[float(f"{v:.9g}") for v in logits.flatten().tolist()],
                            maps=[sampled(map) for map in maps])
    (OUT / "relatives.json").write_text(json.dumps(golden) + "\n")
    lines = []
    for name in timm.list_models(module="resnet"):
        if not OTHERS.search(name):
            with torch.device("meta"):
                lines.append(f"{name} {sum(p.numel() for p in timm.create_model(name).parameters())}\n")
    (OUT / "parameters.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
