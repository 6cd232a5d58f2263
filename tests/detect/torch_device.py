"""A device of torch tensors without hardware: it computes on the CPU and refuses what a GPU refuses."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"  # the only device that PyTorch has without hardware; its tensors have no values of their own
COPY = torch.ops.aten._to_copy.default


class DeviceTensor(torch.Tensor):
    """A tensor on DEVICE; `values` are on the CPU. numpy() and mixtures with tensors of the CPU raise."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "DeviceTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=DEVICE
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types, args=(), kwargs=None):
        raise RuntimeError(f"{function}: outside of Device")


class Device(TorchDispatchMode):
    """While it is active, tensors of DEVICE are DeviceTensors; `n_downloads` counts those copied to the CPU."""

    n_downloads = 0

    def __torch_dispatch__(self, function: Callable, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        is_on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = "cpu"
        elif is_on_device:
            target = DEVICE
            if any(tensor.dim() and not isinstance(tensor, DeviceTensor) for tensor in tensors):
                raise RuntimeError(f"{function}: tensors of two devices")
        self.n_downloads += is_on_device and torch.device(target).type == "cpu"
        unwrap = lambda value: value.values if isinstance(value, DeviceTensor) else value  # noqa: E731
        result = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
        if target is None or torch.device(target).type == "cpu":
            return result
        return tree_map(lambda value: DeviceTensor(value) if isinstance(value, torch.Tensor) else value, result)
