"""Writes golden figures of resnext-train from PyTorch and timm, in float64: optimizers, clipping, schedules, losses.

Inputs follow the formula of ops.py.
"""

import json
import math
import pathlib

import numpy as np
import torch
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import Lamb

PATH = pathlib.Path(__file__).parents[2] / "crates/resnext-train/tests/golden/training.json"


def fill(shape, salt):
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    values = (i * np.uint64(2654435761) + np.uint64(salt * 40503)) % np.uint64(1 << 32)
    return torch.from_numpy((values.astype(np.float64) / 2**31 - 1).reshape(shape))


def flat(t):
    return [float(f"{v:.12g}") for v in t.detach().double().flatten().tolist()]


def optimizer(make):
    """Three parameters: a matrix, a vector whose weight does not decay, and zeros."""
    shapes = [(3, 4), (5,), (2, 3)]
    parameters = [torch.nn.Parameter(fill(shape, salt)) for salt, shape in enumerate(shapes[:2], 1)]
    parameters.append(torch.nn.Parameter(torch.zeros(shapes[2], dtype=torch.float64)))
    step = make([{"params": [parameters[0], parameters[2]]}, {"params": [parameters[1]], "weight_decay": 0.0}])
    values = []
    for number in range(4):
        for salt, parameter in enumerate(parameters):
            parameter.grad = fill(parameter.shape, 10 * number + salt + 20)
        step.step()
        values.append([flat(parameter) for parameter in parameters])
    return values


def clip(how):
    gradients = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (4, 3)]
    for salt, parameter in enumerate(gradients):
        parameter.grad = 2 * fill(parameter.shape, salt + 1)
    how(gradients)
    return [flat(parameter.grad) for parameter in gradients]


def schedule(make, steps=20):
    step = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = make(step)
    rates = []
    for _ in range(steps):
        rates.append(step.param_groups[0]["lr"])
        step.step()
        scheduler.step()
    return rates


def warmed(after):
    """A linear rise over 4 of 20 steps, from a quarter of the peak to the peak, then another schedule."""
    rise = lambda step: torch.optim.lr_scheduler.LinearLR(step, 0.25, 1.0, 3)
    return lambda step: torch.optim.lr_scheduler.SequentialLR(step, [rise(step), after(step)], [4])


def loss(make, targets):
    logits = (3 * fill((4, 5), 1)).requires_grad_()
    value = make(logits, targets)
    value.backward()
    return dict(loss=value.item(), grad=flat(logits.grad))


schedulers = torch.optim.lr_scheduler
soft = fill((4, 5), 7).abs()
soft = soft / soft.sum(1, keepdim=True)
labels = torch.tensor([0, 3, 4, 2])
class_weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5], dtype=torch.float64)
golden = dict(
    adamw=optimizer(lambda groups: torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)),
    lamb=optimizer(lambda groups: Lamb(groups, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3, max_grad_norm=1.5)),
    clip_norm=clip(lambda p: torch.nn.utils.clip_grad_norm_(p, 1.5)),
    clip_norm_loose=clip(lambda p: torch.nn.utils.clip_grad_norm_(p, 100.0)),
    clip_value=clip(lambda p: torch.nn.utils.clip_grad_value_(p, 0.7)),
    step=schedule(lambda s: schedulers.StepLR(s, 6, 0.3)),
    multi_step=schedule(lambda s: schedulers.MultiStepLR(s, [10, 15], 0.1)),
    cosine=schedule(lambda s: schedulers.CosineAnnealingLR(s, 20, eta_min=0.04)),
    polynomial=schedule(lambda s: schedulers.PolynomialLR(s, 20, 2.0)),
    # PyTorch reaches the end with its last step, and the peak with the last one of the rise; here the peak and the end
    # are at the fractions themselves, one step later.
    one_cycle=schedule(lambda s: schedulers.OneCycleLR(s, 0.4, total_steps=21, pct_start=6 / 21)),
    warm_cosine=schedule(warmed(lambda s: schedulers.CosineAnnealingLR(s, 16))),
    warm_polynomial=schedule(warmed(lambda s: schedulers.PolynomialLR(s, 16, 1.0))),
    soft_targets=[[float(f"{v:.12g}") for v in row] for row in soft.tolist()],
    soft_cross_entropy=loss(SoftTargetCrossEntropy(), soft),
    soft_cross_entropy_smoothed=loss(lambda x, t: torch.nn.functional.cross_entropy(x, t, label_smoothing=0.1), soft),
    class_weights=class_weights.tolist(),
    weighted=loss(torch.nn.CrossEntropyLoss(weight=class_weights), labels),
    weighted_smoothed=loss(torch.nn.CrossEntropyLoss(weight=class_weights, label_smoothing=0.1), labels),
    weighted_soft=loss(torch.nn.CrossEntropyLoss(weight=class_weights, label_smoothing=0.1), soft),
    bce=loss(BinaryCrossEntropy(smoothing=0.0), labels),
    bce_smoothed=loss(BinaryCrossEntropy(smoothing=0.1), labels),
    bce_threshold=loss(BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2), soft),
)
assert all(math.isfinite(rate) for rate in golden["one_cycle"])
PATH.write_text(json.dumps(golden) + "\n")
