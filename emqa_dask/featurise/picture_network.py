"""The network of picture kinds on a CPU by numpy and numba: to import torch takes as long as a hundred images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the stages of EfficientNet-Lite0
NORM_EPSILON = 1e-3  # as the trained weights have it
BODY = "backbone."


class _Convolution(NamedTuple):
    """A convolution and the normalisation after it in one."""

    weights: NDArray[np.float32]  # (inputs, outputs) of one pixel, or (k, k, channels) of each channel by itself
    bias: NDArray[np.float32]  # (outputs,)


class PictureNetwork(NamedTuple):
    """EfficientNet-Lite0 and a linear head on the means of the maps of its stages."""

    stem: _Convolution  # (3, 3, channels), all of the one input
    stages: list[list[list[_Convolution]]]  # of each stage, of each block: expansion (in most), depthwise, projection
    head: NDArray[np.float32]  # (means, kinds)
    head_bias: NDArray[np.float32]  # (kinds,)


def load_network(path: Path, n_stages: int) -> PictureNetwork:
    """The network of `n_stages` from the safetensors that classifiers.build_picture_network() is filled from."""
    from safetensors.numpy import load_file

    tensors = {name: values.astype(np.float32) for name, values in load_file(str(path)).items()}
    stages = []
    for stage in range(n_stages):
        numbers = {int(name.split(".")[3]) for name in tensors if name.startswith(f"{BODY}stages.{stage}.")}
        blocks = [_fuse_layers(tensors, f"{BODY}stages.{stage}.{number}.layers.") for number in sorted(numbers)]
        stages.append(blocks)
    (stem,) = _fuse_layers(tensors, f"{BODY}stem.")
    return PictureNetwork(stem, stages, tensors["head.weight"].T.copy(), tensors["head.bias"])


def _fuse_layers(tensors: Mapping[str, NDArray], prefix: str) -> list[_Convolution]:
    """The convolutions below `prefix` in their order, each with the normalisation that follows it."""
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix)}
    convolutions = []
    for number in sorted(numbers):
        weights = tensors[f"{prefix}{number}.weight"]
        if weights.ndim != 4:
            continue
        names = ("weight", "bias", "running_mean", "running_var")
        norm = {name: tensors[f"{prefix}{number + 1}.{name}"] for name in names}
        factor = norm["weight"] / np.sqrt(norm["running_var"] + np.float32(NORM_EPSILON))
        fused = (weights * factor[:, None, None, None]).transpose(2, 3, 1, 0)
        is_pointwise = fused.shape[:2] == (1, 1)
        fused = np.ascontiguousarray(fused[0, 0] if is_pointwise else fused[:, :, 0])
        convolutions.append(_Convolution(fused, norm["bias"] - norm["running_mean"] * factor))
    return convolutions


def compute_logits(network: PictureNetwork, pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits (n, kinds) of `pictures` (n, h, w) from 0 to 1, whose sides are multiples of 32 px."""
    return np.stack([_pool_stages(network, picture) for picture in pictures]) @ network.head + network.head_bias


def _pool_stages(network: PictureNetwork, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means of the maps of all stages, one after the other."""
    centred = np.pad((picture - np.float32(0.5)) / np.float32(0.5), (0, 1))  # as TensorFlow does for a stride of 2
    h, w = picture.shape
    neighbours = [centred[y : y + h : 2, x : x + w : 2] for y in range(3) for x in range(3)]
    values = _mix_channels(np.stack(neighbours, axis=-1), network.stem.weights.reshape(9, -1))
    _activate(values.reshape(-1), network.stem.bias)
    means = []
    for blocks, stride in zip(network.stages, STRIDES, strict=False):
        for number, block in enumerate(blocks):
            values = _apply_block(values, block, stride if number == 0 else 1)
        means.append(values.mean(axis=(0, 1)))
    return np.concatenate(means)


def _apply_block(values: NDArray, block: Sequence[_Convolution], stride: int) -> NDArray:
    """An inverted residual: expansion, depthwise convolution, projection; the input is added where shapes agree."""
    inner = values
    for expansion in block[:-2]:
        inner = _mix_channels(inner, expansion.weights)
        _activate(inner.reshape(-1), expansion.bias)
    inner = _filter_channels(inner, *block[-2], stride)
    projected = _mix_channels(inner, block[-1].weights)
    projected += block[-1].bias
    if stride == 1 and projected.shape == values.shape:
        projected += values
    return projected


def _mix_channels(values: NDArray, weights: NDArray) -> NDArray:
    """`values` (h, w, inputs) times `weights` (inputs, outputs) in one product of matrices, not one for each row."""
    h, w, n = values.shape
    return (values.reshape(h * w, n) @ weights).reshape(h, w, -1)


@numba.njit(nogil=True, cache=True)
def _activate(values: NDArray, bias: NDArray) -> None:
    """Add `bias` (c,) to every c of `values` and limit them to 0...6 (ReLU6)."""
    n = len(bias)
    for start in range(0, len(values), n):
        line = values[start : start + n]
        for k in range(n):
            line[k] = min(max(line[k] + bias[k], np.float32(0)), np.float32(6))


@numba.njit(nogil=True, cache=True)
def _filter_channels(values: NDArray, weights: NDArray, bias: NDArray, stride: int) -> NDArray:
    """A depthwise convolution of `values` (h, w, c), with ReLU6; a stride of 2 pads as TensorFlow does."""
    h, w, n = values.shape
    size = len(weights)
    first = (size - stride) // 2
    out = np.empty((h // stride, w // stride, n), np.float32)
    sums = np.empty(n, np.float32)
    for y in range(h // stride):
        for x in range(w // stride):
            sums[:] = bias
            x0 = x * stride - first
            for row in range(max(first - y * stride, 0), min(size, h + first - y * stride)):
                _add_taps(values[y * stride - first + row], x0, weights[row], sums)
            target = out[y, x]
            for k in range(n):
                target[k] = min(max(sums[k], np.float32(0)), np.float32(6))
    return out


@numba.njit(nogil=True, cache=True)
def _add_taps(line: NDArray, x0: int, taps: NDArray, sums: NDArray) -> None:
    """Add to `sums` (c,) the pixels of `line` (w, c) from x0 on, times `taps` (k, c), three at a time."""
    size = len(taps)
    n = len(sums)
    column = max(-x0, 0)
    last = min(size, len(line) - x0)
    while column + 3 <= last:
        a0 = line[x0 + column]
        a1 = line[x0 + column + 1]
        a2 = line[x0 + column + 2]
        w0 = taps[column]
        w1 = taps[column + 1]
        w2 = taps[column + 2]
        for k in range(n):
            sums[k] += a0[k] * w0[k] + a1[k] * w1[k] + a2[k] * w2[k]
        column += 3
    while column < last:
        a0 = line[x0 + column]
        w0 = taps[column]
        for k in range(n):
            sums[k] += a0[k] * w0[k]
        column += 1
