"""Classifiers as torch networks: build_classifier() from a model card's [architecture], and dropout that repeats."""

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

WIDE_RESNET = "wide_resnet"
PICTURE_BACKBONE = "picture-kinds"  # of the bundled network; the members are heads on its features
# Values of keys that a card may omit. `n_classes` is required.
DEFAULTS = {
    "backbone": WIDE_RESNET,  # PICTURE_BACKBONE, or the name of a torchvision classifier that ends in a linear layer
    "channels": 1,  # of the image
    "dropout": 0.0,  # probability
    "depth": 16,  # of the wide ResNet: 6 n + 4, n blocks a group
    "widen": 2,  # of the wide ResNet: 16, 32 and 64 channels times this
    "hidden": 64,  # units between the features of PICTURE_BACKBONE and the logits
}
PICTURE_BATCH_PX = 2**20  # of the windows that go through PICTURE_BACKBONE at once: 0.5 GB in memory


def complete_architecture(architecture: Mapping) -> dict:
    """`architecture` with every default filled in; ValueError names a key that is missing, unknown or makes no sense"""
    unknown = sorted(set(architecture) - set(DEFAULTS) - {"n_classes"})
    if unknown or "n_classes" not in architecture:
        missing = [] if "n_classes" in architecture else ["n_classes"]
        raise ValueError(f"[architecture]: missing {missing}, unknown {unknown}; known: {['n_classes', *DEFAULTS]}")
    table = {**DEFAULTS, **architecture}
    errors = []
    if table["n_classes"] < 2:
        errors.append(f"n_classes is {table['n_classes']}: there is nothing to tell apart below 2")
    if table["channels"] < 1:
        errors.append(f"channels is {table['channels']}: at least 1")
    if not 0 <= table["dropout"] < 1:
        errors.append(f"dropout is {table['dropout']}: a probability from 0 to below 1")
    if table["backbone"] == PICTURE_BACKBONE and (table["hidden"] < 1 or table["channels"] != 1):
        errors.append(f"hidden is {table['hidden']}, channels {table['channels']}: hidden at least 1, channels 1")
    if table["backbone"] == WIDE_RESNET and (table["depth"] < 10 or (table["depth"] - 4) % 6 or table["widen"] < 1):
        errors.append(f"depth is {table['depth']}, widen {table['widen']}: depth is 10, 16, 22, ..., widen 1, 2, ...")
    if errors:
        raise ValueError(f"[architecture] {'; '.join(errors)}")
    return table


def build_classifier(architecture: Mapping) -> "torch.nn.Module":
    """A classifier of random weights, in evaluation mode, from a card's table `[architecture]` (keys: `DEFAULTS`).

    Its `backbone` takes float32 (n, channels, h, w) in [0, 1] to embeddings (n, d), its `head` (linear) these to logits
    (n, n_classes); called with `embedding=True` it gives both. The wide ResNet of 16 layers, widened by 2, has 693,966
    parameters at 1 channel and 30 classes; its dropout lies between the two 3 x 3 convolutions of each block. With
    PICTURE_BACKBONE the network takes the features of `compute_picture_features` instead of images. Another
    backbone is torchvision's of that name: dropout where it has some, or before its last layer where it has none.
    Zagoruyko & Komodakis, arXiv 1605.07146. Errors: as `complete_architecture`; ValueError for a backbone that
    torchvision does not have, or that does not end in a linear layer.
    """
    full = complete_architecture(architecture)
    if full["backbone"] == WIDE_RESNET:
        backbone, head = _build_wide_resnet(full)
    elif full["backbone"] == PICTURE_BACKBONE:
        backbone, head = _build_picture_head(full)
    else:
        backbone, head = _build_torchvision(full)

    return _define_layers().Classifier(backbone, head).eval()


def build_content_network(n_families: int) -> "torch.nn.Module":
    """The network of classify.content, of random weights: one that is as `build_classifier`'s are, small and grey.

    Nine layers, 0.63 M parameters, embeddings of length 128; a window of 64 px costs 0.05 G multiplications, a wide
    ResNet's of 16 layers 0.4 G.
    """
    from torch import nn

    block = _define_layers().Block
    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 5, 2, 2, bias=False),
        block(32, 32, 1, 0.0), block(32, 64, 2, 0.0), block(64, 128, 2, 0.0), block(128, 128, 1, 0.0),
        nn.BatchNorm2d(128), nn.ReLU(), _define_layers().Mean(),
    )  # fmt: skip
    return _define_layers().Classifier(backbone, nn.Linear(128, n_families)).eval()


def build_picture_network(n_stages: int, n_kinds: int) -> "torch.nn.ModuleDict":
    """The first stages of EfficientNet-Lite0 and a linear head on the means of their maps; random weights."""
    from torch import nn

    from emqa_dask.efficientnet_lite import STAGE_CHANNELS, EfficientNetLite0

    backbone = EfficientNetLite0(1)
    backbone.stages = backbone.stages[:n_stages]
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(sum(STAGE_CHANNELS[:n_stages]), n_kinds)}).eval()


def pool_picture_stages(network: "torch.nn.ModuleDict", pictures: "torch.Tensor") -> "torch.Tensor":
    """The means (n, n_features) of the maps of all stages, for pictures (n, 1, h, w) from 0 to 1."""
    import torch

    from emqa_dask.efficientnet_lite import EfficientNetLite0

    backbone = cast(EfficientNetLite0, network["backbone"])
    values = backbone.stem((pictures - 0.5) / 0.5)
    means = []
    for stage in backbone.stages:
        values = stage(values)
        means.append(values.mean(dim=(2, 3)))
    return torch.cat(means, dim=1)


def compute_picture_features(network: "torch.nn.ModuleDict", pictures: "torch.Tensor") -> "torch.Tensor":
    """pool_picture_stages() of pictures (n, 1, h, w), in batches of PICTURE_BATCH_PX."""
    import torch

    n = max(1, PICTURE_BATCH_PX // max(1, pictures.shape[2] * pictures.shape[3]))
    return torch.cat([pool_picture_stages(network, batch) for batch in pictures.split(n)])


def set_dropout_pass(net: "torch.nn.Module", seed: int | None, number: int = 0) -> None:
    """Sets the units that every dropout of `net` drops in evaluation mode, by (seed, number); None drops nothing.

    In one pass all images lose the same activations: a pass is one thinned network, so neither the order of images nor
    the size of batches changes the result.
    """
    for layer, module in enumerate(m for m in net.modules() if isinstance(m, _define_layers().Dropout)):
        module.drawn_from = None if seed is None else (seed, number, layer)


@functools.cache
def _define_layers() -> SimpleNamespace:
    """Classes of layers, defined once: vmap stacks only networks of the same classes."""
    import numpy as np
    import torch
    from torch import Tensor, nn

    class Classifier(nn.Module):
        """A body and its head."""

        def __init__(self, body: nn.Module, head: nn.Module) -> None:
            super().__init__()
            self.body = body
            self.head = head

        def forward(self, x: Tensor, embedding: bool = False) -> Tensor | tuple[Tensor, Tensor]:
            features = self.body(x)
            return (self.head(features), features) if embedding else self.head(features)

    class Dropout(nn.Module):
        """Dropout; in evaluation it drops nothing, or the units that `set_dropout_pass` chose."""

        def __init__(self, p: float) -> None:
            super().__init__()
            self.p = p
            self.drawn_from = None

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                return nn.functional.dropout(x, self.p)
            if self.drawn_from is None:
                return x
            is_kept = np.random.default_rng(self.drawn_from).random(x.shape[1:], dtype=np.float32) >= self.p
            return x * (torch.from_numpy(is_kept).to(x) / (1 - self.p))

    class Block(nn.Module):
        """Batch normalisation and ReLU before each of two 3 x 3 convolutions; a shortcut around both."""

        def __init__(self, inner: int, outer: int, stride: int, dropout: float) -> None:
            super().__init__()
            self.norm1 = nn.BatchNorm2d(inner)
            self.norm2 = nn.BatchNorm2d(outer)
            self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
            is_same = inner == outer and stride == 1
            self.shortcut = None if is_same else nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.relu = nn.ReLU()
            self.dropout = _make_dropout(dropout)

        def forward(self, x: Tensor) -> Tensor:
            activated = self.relu(self.norm1(x))
            shortcut = x if self.shortcut is None else self.shortcut(activated)
            return shortcut + self.conv2(self.dropout(self.relu(self.norm2(self.conv1(activated)))))

    class Mean(nn.Module):
        """Mean over an image; unlike AdaptiveAvgPool2d it works under vmap."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(-2, -1))

    return SimpleNamespace(Mean=Mean, Classifier=Classifier, Dropout=Dropout, Block=Block)


def _make_dropout(p: float) -> "torch.nn.Module":
    from torch import nn

    return _define_layers().Dropout(p) if p else nn.Identity()


def _build_wide_resnet(full: Mapping) -> tuple:
    from torch import nn

    layers = [nn.Conv2d(full["channels"], 16, 3, 1, 1, bias=False)]
    width = 16
    for outer, stride in ((16, 1), (32, 2), (64, 2)):
        for k in range((full["depth"] - 4) // 6):
            layers.append(
                _define_layers().Block(width, outer * full["widen"], stride if k == 0 else 1, full["dropout"])
            )
            width = outer * full["widen"]
    backbone = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), _define_layers().Mean())
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone, nn.Linear(width, full["n_classes"])


def _build_picture_head(full: Mapping) -> tuple:
    from torch import nn

    from emqa_dask.efficientnet_lite import STAGE_CHANNELS

    layers = nn.Sequential(nn.Linear(sum(STAGE_CHANNELS), full["hidden"]), nn.ReLU(), _make_dropout(full["dropout"]))
    return layers, nn.Linear(full["hidden"], full["n_classes"])


def _build_torchvision(full: Mapping) -> tuple:
    import torchvision
    from torch import nn

    name = full["backbone"]
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"[architecture] backbone is {name!r}: neither {WIDE_RESNET} nor a classifier of torchvision")
    net = torchvision.models.get_model(name, weights=None)
    layers = dict(net.named_modules())
    last_layer_path = list(layers)[-1]
    if not isinstance(layers[last_layer_path], nn.Linear) or getattr(net, "aux_logits", False):
        raise ValueError(f"[architecture] backbone is {name!r}: it does not end in one linear layer; take another")
    has_dropout = False
    for place, module in layers.items():
        if isinstance(module, nn.Dropout):
            has_dropout = True
            _replace_module(net, place, _make_dropout(full["dropout"]))
    first_conv_path, conv = next((place, m) for place, m in layers.items() if isinstance(m, nn.Conv2d))
    if conv.in_channels != full["channels"]:
        shape: Any = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
        fresh = nn.Conv2d(full["channels"], conv.out_channels, **shape, bias=conv.bias is not None)
        nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
        _replace_module(net, first_conv_path, fresh)
    _replace_module(net, last_layer_path, _make_dropout(0.0 if has_dropout else full["dropout"]))
    return net, nn.Linear(layers[last_layer_path].in_features, full["n_classes"])


def _replace_module(net: "torch.nn.Module", module_path: str, module: "torch.nn.Module") -> None:
    parent, _, name = module_path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
