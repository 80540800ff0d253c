"""Grouped convolutions, training steps and inference of PyTorch on one device, behind the line protocol of peers.py.

    gpu.py --device cuda

`cargo xtask gpu-check --python …` starts it; README.md lists the requests. Everything is channels-last. Networks run
eagerly, as a CUDA graph, or by torch.compile with CUDA graphs. A measurement of several runs ends when the device has
finished.
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


def network(device: torch.device, request: dict[str, Any]) -> ResNet:
    groups, width = request["groups"], request["width"]
    model = ResNet(Bottleneck, request["depths"], request["classes"], groups=groups, width_per_group=width)
    return model.to(device, memory_format=torch.channels_last)


def images(device: torch.device, request: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    batch, side = request["batch"], request["side"]
    x = torch.randn(batch, 3, side, side, device=device, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    """`run` as a CUDA graph. It runs a few times on a side stream first, which picks algorithms and allocates."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def free(device: torch.device) -> None:
    """Gives memory back, of which the other engine needs much."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def train(device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    model = network(device, request).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    x = images(device, request, torch.float32)
    labels = torch.arange(request["batch"], device=device) % request["classes"]
    mode = request["mode"]
    compiled = torch.compile(model, mode="reduce-overhead") if mode == "compile" else model
    # A graph must replay the casts of weights too, which a cache of them would skip.
    autocast = {"enabled": request["bf16"], "cache_enabled": mode != "graph"}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, **autocast):
            loss = F.cross_entropy(compiled(x), labels)
        loss.backward()
        optimizer.step()

    run = captured(step) if mode == "graph" else step
    return {"ms": median_ms(device, request["runs"], request["rounds"], run)}


@torch.no_grad()
def infer(device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    dtype = torch.bfloat16 if request["bf16"] else torch.float32
    model = network(device, request).to(dtype).eval()
    x = images(device, request, dtype)
    if request["mode"] == "compile":
        model = torch.compile(model, mode="reduce-overhead")
    run = captured(lambda: model(x)) if request["mode"] == "graph" else lambda: model(x)
    return {"ms": median_ms(device, request["runs"], request["rounds"], run)}


def onnx(device: torch.device, request: dict[str, Any]) -> dict[str, Any]:
    """ONNX Runtime, with the images and the logits on the device."""
    import onnxruntime as ort

    provider = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device.type]
    # TF32 is off, as in the other engines' f32.
    options = {"use_tf32": "0"} if device.type == "cuda" else {}
    session = ort.InferenceSession(request["onnx"], providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"this ONNX Runtime has no {provider}")
    x = images(torch.device("cpu"), request, torch.float32).contiguous(memory_format=torch.contiguous_format)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(x.numpy(), device.type, 0))
    binding.bind_output(session.get_outputs()[0].name, device.type)
    return {"ms": median_ms(device, request["runs"], request["rounds"], lambda: session.run_with_iobinding(binding))}


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
    requests = {"grouped": grouped, "train": train, "infer": infer, "onnx": onnx}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer = requests[request["do"]](device, request)
            free(device)
            say(answer)
        except Exception as error:  # the driver decides what a failed request means
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
