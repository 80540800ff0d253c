"""Other CPU engines running the same network, behind one line protocol.

    peers.py prepare --weights model.safetensors --depths 3,4,6,3 --groups 32 --width 4 --classes 1000 --onnx out.onnx
    peers.py quantize --onnx out.onnx --int8 int8.onnx --size 224
    peers.py serve --engine onnxruntime --onnx out.onnx --threads 2

`prepare` converts our weights to ONNX by way of torchvision. `quantize` makes an int8 network of that.
`serve` loads one engine and answers each JSON line on stdin with one JSON line on stdout; README.md lists the requests.
The benchmark measures start-up, so each engine imports only its own library.

Inputs follow a formula that both sides compute: element i of a flattened tensor is
(i * 2654435761 mod 2**32) / 2**32 * 4 - 2, computed in f64 and rounded to f32.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TextIO

import numpy as np

Pass = Callable[[], Any]  # one run on inputs that are already prepared


@dataclass(frozen=True)
class Engine:
    version: str
    precision: str
    forward: Callable[[np.ndarray], Pass]  # prepares an NCHW input; the pass returns logits
    grouped: Callable[[np.ndarray, np.ndarray, int, bool], Pass] | None = None  # x, weight, groups, backward
    train: Callable[[np.ndarray, int, float, float], dict[str, Any]] | None = None  # images, steps, rate, momentum


def fill(*shape: int) -> np.ndarray:
    i = np.arange(np.prod(shape), dtype=np.uint64)
    turns = (i * np.uint64(2654435761) % np.uint64(1 << 32)).astype(np.float64) / 2**32
    return (turns * 4 - 2).astype(np.float32).reshape(shape)


def noise(*shape: int) -> np.ndarray:
    """Images for training: those of `fill` are so alike that batch norm would amplify their differences."""
    mask = np.uint64(0xFFFFFFFF)
    x = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(2654435761) & mask
    x = (x ^ x >> np.uint64(16)) * np.uint64(0x85EBCA6B) & mask
    x = (x ^ x >> np.uint64(13)) * np.uint64(0xC2B2AE35) & mask
    turns = (x ^ x >> np.uint64(16)).astype(np.float64) / 2**32
    return (turns * 4 - 2).astype(np.float32).reshape(shape)


def torchvision_model(args: argparse.Namespace) -> Any:
    import torch
    from safetensors.torch import load_file
    from torchvision.models.resnet import Bottleneck, ResNet

    stages = len(args.depths)
    with torch.device("meta"):  # skip initial weights, which are replaced at once
        depths = args.depths + [1] * (4 - stages)
        model = ResNet(Bottleneck, depths, args.classes, groups=args.groups, width_per_group=args.width)
        for stage in range(stages + 1, 5):
            setattr(model, f"layer{stage}", torch.nn.Identity())
        if args.stem == "cifar":
            model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.maxpool = torch.nn.Identity()
        model.fc = torch.nn.Linear(256 << stages - 1, args.classes)
    weights = load_file(args.weights)
    for name in model.state_dict():
        if name.endswith("num_batches_tracked"):  # only training reads it, and our files omit it
            weights.setdefault(name, torch.tensor(0))
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def prepare(args: argparse.Namespace) -> None:
    import torch

    torch.onnx.export(
        torchvision_model(args),
        (torch.zeros(1, 3, 224, 224),),
        args.onnx,
        opset_version=18,
        dynamo=False,  # the newer exporter needs onnxscript
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}},
    )


def quantize(args: argparse.Namespace) -> None:
    """ONNX Runtime's static quantization in QDQ form, which OpenVINO computes in int8, too.

    Ranges are those of the benchmark's input, as for our engine. Weights have 7 bits where the CPU has no VNNI:
    both engines then multiply by vpmaddubsw, whose 16-bit sums would saturate.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Input(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter([{"input": fill(1, 3, args.size, args.size)}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    cpuinfo = pathlib.Path("/proc/cpuinfo")
    vnni = cpuinfo.exists() and "vnni" in cpuinfo.read_text()
    quant_pre_process(args.onnx, args.int8, skip_symbolic_shape=True)  # makes every bias a constant of its own
    quantize_static(args.int8, args.int8, Input(), quant_format=QuantFormat.QDQ, per_channel=True,
                    reduce_range=not vnni, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def openvino(args: argparse.Namespace) -> Engine:
    import openvino as ov

    core = ov.Core()
    core.set_property("CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": args.threads})
    if args.engine == "openvino-f32":
        core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    model = core.read_model(args.onnx)

    @cache  # fixed shapes run slightly faster, so each shape has its own network
    def compiled(shape: tuple[int, ...]) -> ov.InferRequest:
        fixed = model.clone()
        fixed.reshape(list(shape))
        return core.compile_model(fixed, "CPU").create_infer_request()

    def forward(x: np.ndarray) -> Pass:
        request = compiled(x.shape)
        return lambda: request.infer([x], share_inputs=True, share_outputs=True)[0]

    precision = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    if args.engine.endswith("int8"):
        precision = "int8"
    return Engine(ov.__version__.split("-")[0], precision, forward)


def onnxruntime(args: argparse.Namespace) -> Engine:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(args.onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    precision = "int8" if args.engine.endswith("int8") else "f32"
    return Engine(ort.__version__, precision, lambda x: lambda: session.run(["logits"], {name: x})[0])


def pytorch(args: argparse.Namespace) -> Engine:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(args.threads)
    channels_last = args.engine == "pytorch-channels-last"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = torchvision_model(args).to(memory_format=layout)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).contiguous(memory_format=layout)

    def forward(values: np.ndarray) -> Pass:
        x = tensor(values)
        return torch.inference_mode()(lambda: model(x).numpy())

    def grouped(values: np.ndarray, weight: np.ndarray, groups: int, backward: bool) -> Pass:
        x, w = tensor(values), tensor(weight)
        if not backward:
            return torch.inference_mode()(lambda: F.conv2d(x, w, padding=1, groups=groups))
        dy = x.clone()  # y has the shape of x
        x.requires_grad_(), w.requires_grad_()
        return lambda: torch.autograd.grad(F.conv2d(x, w, padding=1, groups=groups), (x, w), grad_outputs=dy)

    @cache
    def optimizer(rate: float, momentum: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)

    def train(values: np.ndarray, steps: int, rate: float, momentum: float) -> dict[str, Any]:
        x, labels = tensor(values), torch.arange(len(values)) % args.classes
        model.train()
        sgd, times = optimizer(rate, momentum), []
        losses = []
        for _ in range(steps):
            marks = [time.perf_counter()]
            sgd.zero_grad()
            loss = F.cross_entropy(model(x), labels)
            marks.append(time.perf_counter())
            loss.backward()
            marks.append(time.perf_counter())
            sgd.step()
            marks.append(time.perf_counter())
            losses.append(loss.item())
            times.append([(end - start) * 1e3 for start, end in pairwise(marks)])
        return {"losses": losses, "forward_ms": [t[0] for t in times], "backward_ms": [t[1] for t in times],
                "optimizer_ms": [t[2] for t in times], "wait_ms": [0.0] * steps}

    return Engine(torch.__version__, "f32", forward, grouped, train)


ENGINES = {"openvino-f32": openvino, "openvino": openvino, "onnxruntime": onnxruntime,
           "openvino-int8": openvino, "onnxruntime-int8": onnxruntime,
           "pytorch": pytorch, "pytorch-channels-last": pytorch}


def timed(run: Pass, runs: int) -> list[float]:
    marks = [time.perf_counter_ns()]
    for _ in range(runs):
        run()
        marks.append(time.perf_counter_ns())
    return [(end - start) / 1e6 for start, end in pairwise(marks)]


def peak_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def answers(engine: Engine) -> Callable[[dict[str, Any]], dict[str, Any]]:
    @cache
    def forward(batch: int, size: int) -> Pass:
        return engine.forward(fill(batch, 3, size, size))

    def warm(run: Pass) -> Pass:
        run()
        return run

    @cache
    def warm_forward(batch: int, size: int) -> Pass:
        return warm(forward(batch, size))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "time", "batch": b, "size": s, "runs": runs}:
                return {"ms": timed(warm_forward(b, s), runs)}
            case {"do": "logits", "batch": b, "size": s}:
                return {"logits": forward(b, s)().tolist()}
            case {"do": ("grouped" | "grouped_backward") as do, "channels": c, "size": s, "groups": g, "batch": b,
                  "runs": runs} if engine.grouped:
                x, weight = fill(b, c, s, s), fill(c, c // g, 3, 3)
                return {"ms": timed(warm(engine.grouped(x, weight, g, do == "grouped_backward")), runs)}
            case {"do": "train", "batch": b, "size": s, "steps": steps, "rate": rate,
                  "momentum": momentum} if engine.train:
                return engine.train(noise(b, 3, s, s), steps, rate, momentum)
            case {"do": "memory"}:
                return {"peak_mb": peak_mb()}
            case {"do": "quit"}:
                sys.exit()
        return {"error": f"unknown request: {request}"}

    return answer


def serve(args: argparse.Namespace, out: TextIO) -> None:
    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    engine = ENGINES[args.engine](args)
    answer = answers(engine)
    say({"ready": True, "engine": args.engine, "version": engine.version, "precision": engine.precision})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:  # the driver decides what a failed request means
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


def arguments() -> argparse.Namespace:
    network = argparse.ArgumentParser(add_help=False)
    network.add_argument("--weights", help="safetensors file under torchvision's names")
    network.add_argument("--depths", type=lambda text: [int(n) for n in text.split(",")], default=[3, 4, 6, 3])
    network.add_argument("--groups", type=int, default=32)
    network.add_argument("--width", type=int, default=4, help="channels in each group of the first stage")
    network.add_argument("--stem", choices=["imagenet", "cifar"], default="imagenet")
    network.add_argument("--classes", type=int, default=1000)
    network.add_argument("--onnx", help="the ONNX file: prepare writes it, OpenVINO and ONNX Runtime read it")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", parents=[network], help="weights to ONNX")
    narrow = commands.add_parser("quantize", parents=[network], help="an ONNX file to another one in int8")
    narrow.add_argument("--int8", required=True, help="the file to write")
    narrow.add_argument("--size", type=int, default=224, help="height and width of the images")
    server = commands.add_parser("serve", parents=[network], help="answer requests on stdin")
    server.add_argument("--engine", choices=ENGINES, required=True)
    server.add_argument("--threads", type=int, required=True)

    args = parser.parse_args()
    if args.command == "prepare":
        needed = ["weights", "onnx"]
    elif args.command == "quantize":
        needed = ["onnx"]
    else:
        needed = ["weights"] if args.engine.startswith("pytorch") else ["onnx"]
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"--{name} is required here")
    return args


def main() -> None:
    args = arguments()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print, in Python or in C, goes to stderr
    if args.command == "prepare":
        prepare(args)
    elif args.command == "quantize":
        quantize(args)
    else:
        serve(args, out)


if __name__ == "__main__":
    main()
