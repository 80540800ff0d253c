"""Checks the files of `cargo xtask export` in torchvision, timm and ONNX Runtime, and that the same weights give
the same export whether they come from safetensors or from either of PyTorch's formats.

    python scripts/golden/exports.py [path of xtask]

Prints one line per check and stops at the first that fails.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import load_file, save_file

from formula import images, network

XTASK = sys.argv[1] if len(sys.argv) > 1 else "target/release/xtask"
NETWORKS = ["resnext50_32x4d", "resnet50", "resnet18", "resnet34", "resnext101_64x4d", "resnext20_8x4d",
            "seresnext26t_32x4d", "resnetaa34d", "resnetblur18", "ecaresnet26t",
            "inception_v3", "inception_v4", "inception_resnet_v2", "vgg16_bn"]
# Height and width of images: Inceptions need 75, and VGG's ONNX file takes its own size only.
SIDES = {"resnext20_8x4d": (32, 64), "inception_v3": (75, 107), "inception_v4": (75, 107),
         "inception_resnet_v2": (75, 107), "vgg16_bn": (224, 224)}


def export(source, out, dtype="f32"):
    subprocess.run([XTASK, "export", str(source), "--out", str(out), "--dtype", dtype], check=True,
                   stdout=subprocess.DEVNULL)


def relative(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max() / torch.as_tensor(b).abs().max())


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    for name in NETWORKS:
        model = network(name)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "in.safetensors")
        # Weights do not show what takes the place of strides, the architecture does.
        (folder / "config.json").write_text(json.dumps(dict(architecture=name)))
        torch.save(state, folder / "in.pth")
        torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
        export(folder / "in.safetensors", folder / "out.safetensors")
        for other in ("in.pth", "old.pth"):
            export(folder / other, folder / "other.safetensors")
            assert (folder / "other.safetensors").read_bytes() == (folder / "out.safetensors").read_bytes(), other
        loaded = load_file(folder / "out.safetensors")
        assert all(torch.equal(loaded[k], v) for k, v in state.items() if v.is_floating_point()) and loaded.keys() == state.keys()
        network(name).load_state_dict(loaded, strict=True)
        if name not in ("resnext20_8x4d", "vgg16_bn"):
            import timm

            timm.create_model(name, pretrained=False).load_state_dict(loaded, strict=True)
        for dtype, torch_dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
            export(folder / "in.pth", folder / "narrow.safetensors", dtype)
            narrow = load_file(folder / "narrow.safetensors")
            assert all(torch.equal(narrow[k], v.to(torch_dtype)) for k, v in state.items() if v.is_floating_point())
            model.load_state_dict(narrow, strict=True)
        print(name, "safetensors: equal bit for bit, strict=True in torchvision and timm")

        model = network(name)
        height, width = SIDES.get(name, (64, 96))
        for dtype, bound in (("f32", 1e-4), ("f16", 2e-2), ("bf16", 2e-1)):
            export(folder / "in.safetensors", folder / "out.onnx", dtype)
            onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
            opset = onnx.load(str(folder / "out.onnx"), load_external_data=False).opset_import[0].version
            session = onnxruntime.InferenceSession(str(folder / "out.onnx"), providers=["CPUExecutionProvider"])
            for batch in (1, 3):
                x = images((batch, 3, height, width))
                with torch.no_grad():
                    expected = model(torch.from_numpy(x))
                got = session.run(["logits"], {"images": x})[0]
                difference = relative(got, expected)
                print(name, "onnx", dtype, "opset", opset, "batch", batch, f"difference {difference:.1e}")
                assert got.shape == tuple(expected.shape) and difference < bound
