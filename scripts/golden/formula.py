"""Inputs and weights computed from index and name, as crates/resnext-model/tests/common does in Rust."""

import numpy as np


def salt(name):
    """The low 32 bits of the FNV-1a hash of the name."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return value % (1 << 32)


def noise(count, name):
    """`count` float64 values in [-1, 1): hashes of index and name."""
    h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(salt(name))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h.astype(np.float64) / 2**31 - 1


def weight(name, shape):
    """The values of a weight tensor, scaled so that activations stay near 1 through a hundred layers."""
    u = noise(int(np.prod(shape)), name).reshape(shape)
    if len(shape) == 4:
        return u * (6 / np.prod(shape[1:])) ** 0.5
    if len(shape) == 2:
        return u * (3 / shape[1]) ** 0.5
    if name.endswith("running_var"):
        return 1 + 0.3 * u
    if name.endswith(".weight"):
        return (0.25 if "bn3" in name else 0.8) * (1 + 0.2 * u)
    return 0.1 * u


def fill(model):
    """Sets every weight of a torch module to its value by the formula."""
    import torch

    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape)).astype(np.float32)))
    return model.eval()


def images(shape):
    return (2 * noise(int(np.prod(shape)), "images")).astype(np.float32).reshape(shape)


def cifar_resnext(depth_per_stage, cardinality, width, planes):
    """A CIFAR network (section 5.3 of the paper) built of torchvision's blocks."""
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10)
    model.inplanes, model.groups, model.base_width = planes, cardinality, width * 64 // planes
    model.conv1 = torch.nn.Conv2d(3, planes, 3, padding=1, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(planes)
    model.maxpool = torch.nn.Identity()
    for stage in range(3):
        blocks = model._make_layer(Bottleneck, planes << stage, depth_per_stage, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", blocks)
    model.layer4 = torch.nn.Identity()
    model.fc = torch.nn.Linear(planes * 16, 10)
    return model


def network(name):
    """The network of this name, torchvision's or timm's, with the formula's weights."""
    import torchvision

    if name == "resnext20_8x4d":
        return fill(cifar_resnext(2, 8, 4, 16))
    if not hasattr(torchvision.models, name) or name.startswith("inception"):
        import timm

        return fill(timm.create_model(name))
    return fill(getattr(torchvision.models, name)(weights=None))
