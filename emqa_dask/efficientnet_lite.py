"""EfficientNet-Lite0 as the backbone of a detector: feature maps at strides 4, 8, 16 and 32 px."""

from typing import NamedTuple

import torch
from torch import nn


class _Stage(NamedTuple):
    n_blocks: int
    kernel_px: int
    stride: int
    expansion: int
    n_channels: int


# Tan and Le, "EfficientNet" (2019), table 1, without squeeze-and-excitation and with ReLU6, as the Lite variant has it.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
STAGE_CHANNELS = tuple(stage.n_channels for stage in _STAGES)
_STEM_CHANNELS = 32
_RETURNED_STAGES = (1, 2, 4, 6)  # the last ones of their strides
CHANNELS = tuple(_STAGES[k].n_channels for k in _RETURNED_STAGES)  # of the returned maps, finest first
_NORM_EPSILON = 1e-3  # as the trained weights have it
_NORM_MOMENTUM = 0.01


class EfficientNetLite0(nn.Module):
    """Feature maps "0" to "3" (n, CHANNELS[k], h / 2**(k + 2), w / 2**(k + 2)) of images (n, n_inputs, h, w).

    Height and width are multiples of 32 px, to which torchvision's detectors pad their images.
    """

    def __init__(self, n_inputs: int = 1):
        super().__init__()
        self.stem = nn.Sequential(*_make_convolution(n_inputs, _STEM_CHANNELS, 3, stride=2), nn.ReLU6(inplace=True))
        stages = []
        n_channels = _STEM_CHANNELS
        for stage in _STAGES:
            blocks = []
            for k in range(stage.n_blocks):
                stride = stage.stride if k == 0 else 1
                blocks.append(_Block(n_channels, stage.n_channels, stage.kernel_px, stride, stage.expansion))
                n_channels = stage.n_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The four feature maps, finest first."""
        values = self.stem(images)
        maps: dict[str, torch.Tensor] = {}
        for k, stage in enumerate(self.stages):
            values = stage(values)
            if k in _RETURNED_STAGES:
                maps[str(len(maps))] = values
        return maps


class _Block(nn.Module):
    """An inverted residual: expansion, depthwise convolution, projection."""

    def __init__(self, n_inputs: int, n_outputs: int, kernel_px: int, stride: int, expansion: int):
        super().__init__()
        n_inner = n_inputs * expansion
        layers = []
        if expansion > 1:
            layers += [*_make_convolution(n_inputs, n_inner, 1), nn.ReLU6(inplace=True)]
        layers += [*_make_convolution(n_inner, n_inner, kernel_px, stride=stride, groups=n_inner)]
        layers += [nn.ReLU6(inplace=True), *_make_convolution(n_inner, n_outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and n_inputs == n_outputs

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The block's output; with its input added where the shapes are equal."""
        return values + self.layers(values) if self.is_residual else self.layers(values)


class _DepthwiseConvolution(nn.Conv2d):
    """A depthwise convolution that computes in float32 on a CPU.

    The gradient of a 5 x 5 kernel in bfloat16 took five times as long there: half of a training step.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The convolved maps; float32 on a CPU."""
        if values.device.type != "cpu" or values.dtype == torch.float32:
            return super().forward(values)
        with torch.autocast("cpu", enabled=False):
            return super().forward(values.float())


def _make_convolution(n_inputs: int, n_outputs: int, kernel_px: int, *, stride: int = 1, groups: int = 1) -> list:
    """A convolution and its batch normalisation; a stride of 2 pads as TensorFlow does, which trained the weights."""
    padding = kernel_px // 2
    layers = []
    if stride == 2:
        first, last = (kernel_px - 2) // 2, (kernel_px - 1) // 2
        layers.append(nn.ZeroPad2d((first, last, first, last)))
        padding = 0
    kind = _DepthwiseConvolution if groups > 1 else nn.Conv2d
    convolution = kind(n_inputs, n_outputs, kernel_px, stride, padding, groups=groups, bias=False)
    return [*layers, convolution, nn.BatchNorm2d(n_outputs, eps=_NORM_EPSILON, momentum=_NORM_MOMENTUM)]
