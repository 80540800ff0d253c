"""Writes one small network as programs around PyTorch save it, beside plain.safetensors, whose weights all of them have.

The tests of `predict` expect the same probabilities of every file: 0.7422, 0.1872 and 0.0706 for good.bmp.
"""

import argparse
import collections
import pathlib

import torch
from safetensors.torch import load_file

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-model/tests/golden/origins"
state = load_file(OUT / "plain.safetensors")


def prefixed(prefix, weights=state):
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


def head(name, prefix=""):
    return collections.OrderedDict(
        (key.replace("fc.", name) if key.startswith("fc.") else prefix + key, tensor) for key, tensor in state.items())


def random():
    return {name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


torch.manual_seed(1)
# torchvision's and PyTorch's own examples of training.
torch.save(dict(epoch=90, arch="resnext50_32x4d", state_dict=prefixed("module."), best_acc1=torch.tensor(77.6)),
           OUT / "best_acc1_tensor.pth.tar")
torch.save(dict(model=random(), model_ema=dict(n_averaged=torch.tensor(3128), **prefixed("module.")), epoch=1,
                args=argparse.Namespace(lr=0.1)), OUT / "torchvision_model_ema.pth")
# A MultiStepLR keeps its milestones in a Counter.
torch.save(dict(model_state_dict=state, scheduler=dict(milestones=collections.Counter([30, 60]))),
           OUT / "multisteplr_counter.pth")
torch.save({"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(3)}, "pytorch-lightning_version": "2.2"},
           OUT / "lightning_criterion.ckpt")
torch.save(dict(meta={}, state_dict=head("head.fc.", "backbone.")), OUT / "mmpretrain.pth")
torch.save({**state, "total_ops": torch.zeros(1, dtype=torch.float64),
            "layer1.0.total_params": torch.zeros(1, dtype=torch.float64)}, OUT / "thop.pth")
torch.save(dict(model=state, rng=bytearray(b"abc")), OUT / "bytearray.pth")
torch.save(dict(model=state, loss=complex(1, 2)), OUT / "complex.pth")
torch.save(head("fc.1."), OUT / "fc_sequential.pth")
