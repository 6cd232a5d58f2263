"""The same functions in fewer passes over memory: folded batch norms, products, planar copies, masks by the few."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def fold_batch_norms(net: "nn.Module") -> int:
    """Folds, in place, every frozen or evaluated BatchNorm2d of `net` that follows a convolution; gives their number.

    Two layouts are known: detectron2's, in which the convolution holds its `norm`, and torchvision's, in which they
    are called `conv1`, `bn1`, ... or `0`, `1` (in `downsample`) beside each other. Outputs change by rounding alone.
    """
    n = 0
    for module in net.modules():
        norm = getattr(module, "norm", None)
        if _is_convolution(module) and _is_norm(norm):
            _fold(module, norm)
            module.norm = None
            n += 1
    for module in list(net.modules()):
        children = dict(module.named_children())
        for name, norm in children.items():
            convolution = children.get(name.replace("bn", "conv") if name.startswith("bn") else _previous(name))
            if _is_norm(norm) and _is_convolution(convolution) and norm is not convolution:
                _fold(convolution, norm)
                setattr(module, name, _identity())
                n += 1
    return n


def _previous(name: str) -> str:
    return str(int(name) - 1) if name.isdecimal() else ""


def _is_convolution(module) -> bool:
    from torch import nn

    return isinstance(module, nn.Conv2d)


def _is_norm(module) -> bool:
    """Is it a batch normalisation that has stored statistics, and uses them?"""
    from torch import nn

    if isinstance(module, nn.BatchNorm2d):
        return not module.training and module.track_running_stats
    return type(module).__name__ == "FrozenBatchNorm2d"


def _identity() -> "nn.Module":
    from torch import nn

    return nn.Identity()


def _fold(convolution: "nn.Conv2d", norm: "nn.Module") -> None:
    import torch
    from torch import nn

    with torch.no_grad():
        statistics = [getattr(norm, name) for name in ("running_var", "running_mean", "weight", "bias")]
        float64_values = [None if values is None else values.double() for values in statistics]
        variance, mean = float64_values[:2]
        weight, bias = float64_values[2:]
        scale = (variance + norm.eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        if convolution.bias is not None:
            shift = shift + convolution.bias.double() * scale
        kernel = convolution.weight.double() * scale[:, None, None, None]
        convolution.weight = nn.Parameter(kernel.to(convolution.weight.dtype), requires_grad=False)
        convolution.bias = nn.Parameter(shift.to(convolution.weight.dtype), requires_grad=False)


def replace_by_products(net: "nn.Module") -> int:
    """Computes, in place, the plain 1 x 1 convolutions of `net` as matrix products; gives their number.

    For a CPU and channels-last tensors, where a product needs no copy of its input: PyTorch's own way of a single
    thread makes one there, and one of the output, which cost a fifth of a ResNet-50's time.
    """
    n = 0
    for module in net.modules():
        is_plain_convolution = _is_convolution(module) and module.groups == 1 and getattr(module, "norm", None) is None
        if is_plain_convolution and (module.kernel_size, module.stride, module.padding) == ((1, 1), (1, 1), (0, 0)):
            module.forward = partial(_product, module)
            n += 1
    return n


def _product(module: "nn.Conv2d", x: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import linear

    out = linear(x.permute(0, 2, 3, 1), module.weight.flatten(1), module.bias).permute(0, 3, 1, 2)
    activation = getattr(module, "activation", None)  # of detectron2's
    return out if activation is None else activation(out)


def make_planar(x: "torch.Tensor") -> "torch.Tensor":
    """`x` (n, c, h, w) with its channels one after the other in memory.

    torchvision's roi_align makes such a copy of each level every time it is called, by a way that is ten times slower.
    """
    import torch

    if x.is_contiguous() or x.device.type != "cpu":
        return x.contiguous()
    n, c = x.shape[:2]
    h, w = x.shape[2:]
    out = torch.empty((n, c, h * w), dtype=x.dtype)
    for plane, image in zip(out, x.permute(0, 2, 3, 1).reshape(n, h * w, c)):
        plane.copy_(image.t())  # of two dimensions: PyTorch goes through it in blocks
    return out.view(n, c, h, w)


def apply_in_groups(function: "Callable[[torch.Tensor], torch.Tensor]", few: int = 32) -> Callable:
    """`function` of n objects (the first axis), `few` at a time: its layers then stay in the cache, and small."""

    def call(x: "torch.Tensor") -> "torch.Tensor":
        import torch

        return function(x) if len(x) <= few else torch.cat([function(part) for part in x.split(few)])

    return call
