"""PyTorch's grouped convolution and training step on one device, behind the line protocol of peers.py.

    gpu.py --device cuda

`cargo xtask gpu-check --python …` starts it; README.md lists the requests. Everything runs eagerly and
channels-last. A measurement of several runs ends when the device has finished.
"""

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.models.resnet import Bottleneck, ResNet

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def median_ms(device: torch.device, runs: int, rounds: int, run: Callable[[], Any]) -> float:
    run()
    wait(device)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(runs):
            run()
        wait(device)
        times.append((time.perf_counter() - start) * 1e3 / runs)
    return statistics.median(times)


def grouped(device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    channels, groups = request["channels"], request["groups"]
    like = {"device": device, "dtype": DTYPES[request["dtype"]]}
    side = request["side"]
    x = torch.randn(request["batch"], channels, side, side, **like)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels // groups, 3, 3, **like).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(x)

    def forward() -> torch.Tensor:
        return F.conv2d(x, weight, padding=1, groups=groups)

    def gradients() -> Any:
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups, [True, True, False]
        )

    times = (request["runs"], request["rounds"])
    with torch.no_grad():
        return {"forward_ms": median_ms(device, *times, forward), "gradients_ms": median_ms(device, *times, gradients)}


def train(device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    groups, width = request["groups"], request["width"]
    model = ResNet(Bottleneck, request["depths"], request["classes"], groups=groups, width_per_group=width)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    batch, side = request["batch"], request["side"]
    x = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % request["classes"]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=request["amp"]):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return {"step_ms": median_ms(device, request["steps"], request["rounds"], step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], required=True)
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # pick the fastest algorithm
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # plain f32, as ours
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    say({"ready": True, "engine": "pytorch", "version": torch.__version__, "precision": "f32 and bf16"})
    requests = {"grouped": grouped, "train": train}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            say(requests[request["do"]](device, request))
        except Exception as error:  # the driver decides what a failed request means
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
