"""Writes small torch.save files: a tiny network in the formats people have, and files that must be refused."""

import argparse
import os
import pathlib
import pickle

import torch

from formula import cifar_resnext, fill

OUT = pathlib.Path(__file__).parents[2] / "crates/resnext-model/tests/golden/checkpoints"


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/this-should-not-be-here",)


OUT.mkdir(parents=True, exist_ok=True)
model = cifar_resnext(1, 2, 2, 4)
model.layer3 = torch.nn.Identity()
model.fc = torch.nn.Linear(32, 3)
state = fill(model).state_dict()
torch.save(state, OUT / "plain.pth")
torch.save(state, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
# A training checkpoint: `module.` prefixes, settings, optimizer state, and weights in channels-last memory.
parallel = torch.nn.DataParallel(model.to(memory_format=torch.channels_last))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
torch.save(dict(epoch=3, arch="tiny", args=argparse.Namespace(lr=0.1), optimizer=optimizer.state_dict(),
                state_dict=parallel.state_dict()), OUT / "training.pth")
torch.save({name: torch.nn.Parameter(tensor.half()) for name, tensor in state.items() if tensor.is_floating_point()},
           OUT / "half.bin")
torch.save({"fc.weight": Evil()}, OUT / "evil.pth")
torch.save(model, OUT / "module.pth")
(OUT / "evil.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
