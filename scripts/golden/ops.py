"""Writes golden figures of resnext-ops and resnext-train from PyTorch, in float64.

Inputs follow a formula that the Rust tests compute as well: element i of a flattened tensor is
((i * 2654435761 + salt * 40503) mod 2**32) / 2**31 - 1, in [-1, 1).
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).parents[2] / "crates"


def fill(shape, salt):
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    values = (i * np.uint64(2654435761) + np.uint64(salt * 40503)) % np.uint64(1 << 32)
    return torch.from_numpy((values.astype(np.float64) / 2**31 - 1).reshape(shape))


def leaf(shape, salt, offset=0.0):
    return (fill(shape, salt) + offset).requires_grad_()


def flat(t):
    return [float(f"{v:.12g}") for v in t.detach().double().flatten().tolist()]


def conv(x_shape, w_shape, stride, padding, dilation, groups):
    x, w, b = leaf(x_shape, 1), leaf(w_shape, 2), leaf(w_shape[:1], 3)
    y = F.conv2d(x, w, b, stride, padding, dilation, groups)
    y.backward(fill(y.shape, 99))
    return dict(x=x_shape, weight=w_shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
                y=flat(y), grad_x=flat(x.grad), grad_weight=flat(w.grad), grad_bias=flat(b.grad))


def batch_norm(train, relu):
    shape = (3, 5, 4, 3)
    x, w, b = leaf(shape, 1), leaf((5,), 2, 1.5), leaf((5,), 3)
    mean, var = (torch.zeros(5).double(), torch.ones(5).double()) if train else (fill((5,), 4), fill((5,), 5) + 1.5)
    y = F.batch_norm(x, mean, var, w, b, training=train, momentum=0.1, eps=1e-5)
    y = F.relu(y) if relu else y
    y.backward(fill(shape, 99))
    return dict(train=train, relu=relu, y=flat(y), running_mean=flat(mean), running_var=flat(var),
                grad_x=flat(x.grad), grad_weight=flat(w.grad), grad_bias=flat(b.grad))


def max_pool():
    x = leaf((2, 3, 7, 8), 1)
    y = F.max_pool2d(x, 3, 2, 1)
    y.backward(fill(y.shape, 99))
    return dict(y=flat(y), grad_x=flat(x.grad))


def cross_entropy(smoothing):
    x = leaf((4, 7), 1)
    loss = F.cross_entropy(3 * x, torch.tensor([0, 3, 6, 2]), label_smoothing=smoothing)
    loss.backward()
    return dict(smoothing=smoothing, loss=loss.item(), grad=flat(x.grad / 3))


def sgd(nesterov):
    x = leaf((5,), 1)
    optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    values = []
    for step in range(3):
        x.grad = fill((5,), 10 + step)
        optimizer.step()
        values.append(flat(x))
    return dict(nesterov=nesterov, values=values)


def write(crate, name, value):
    path = ROOT / crate / "tests" / "golden" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")


write("resnext-ops", "ops.json", dict(
    conv=[
        conv((1, 64, 4, 4), (64, 2, 3, 3), 1, 1, 1, 32),
        conv((2, 16, 7, 6), (16, 4, 3, 3), 2, 1, 1, 4),
        conv((1, 6, 6, 7), (6, 1, 3, 3), 1, 2, 2, 6),
        conv((2, 9, 5, 5), (8, 9, 1, 1), 2, 0, 1, 1),
        conv((1, 3, 13, 12), (8, 3, 7, 7), 2, 3, 1, 1),
        conv((1, 6, 5, 4), (10, 3, 2, 3), 1, 1, 1, 2),
    ],
    batch_norm=[batch_norm(t, r) for t in (True, False) for r in (False, True)],
    max_pool=max_pool(),
    cross_entropy=[cross_entropy(0.0), cross_entropy(0.1)],
))
write("resnext-train", "sgd.json", [sgd(False), sgd(True)])
