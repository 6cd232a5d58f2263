"""Evaluation of several networks of one architecture: in a loop, by vmap, or as grouped convolutions."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EVALUATION_METHODS = ("loop", "vmap", "grouped")
Evaluate = Callable[["torch.Tensor"], tuple["torch.Tensor", "torch.Tensor"]]


def make_evaluator(nets: Sequence["torch.nn.Module"], evaluation: str) -> Evaluate:
    """A function from images (n, channels, h, w) to logits (members, n, classes) and embeddings (members, n, d).

    All evaluations agree to rounding. `vmap` stacks the weights of any network; `grouped` joins those of a wide ResNet
    along the channels. Raises ValueError for an unknown evaluation, no network, and a network that cannot be grouped.
    """
    if evaluation not in EVALUATION_METHODS or not nets:
        raise ValueError(
            f"{len(nets)} networks, way {evaluation!r}: at least one network, "
            f"way one of {', '.join(EVALUATION_METHODS)}"
        )
    return {"loop": _make_loop, "vmap": _make_vmap, "grouped": _make_grouped}[evaluation](nets)


def _make_loop(nets) -> Evaluate:
    import torch

    nets = [net.to(memory_format=torch.channels_last) for net in nets]  # no copies: their dropout pass may be set

    def evaluate(images):
        if images.ndim == 4:  # not the features of a shared backbone
            images = images.contiguous(memory_format=torch.channels_last)
        outputs = [net(images, embedding=True) for net in nets]
        return torch.stack([logits for logits, _ in outputs]), torch.stack([embedding for _, embedding in outputs])

    return evaluate


def _make_vmap(nets) -> Evaluate:
    import torch

    nets = [_fold_norms(net) for net in nets]
    stacked = torch.func.stack_module_state(nets)
    skeleton = copy.deepcopy(nets[0]).to("meta")

    def call_one_network(parameters, buffers, images):
        return torch.func.functional_call(skeleton, (parameters, buffers), (images,), {"embedding": True})

    vectorised_network = torch.vmap(call_one_network, in_dims=(0, 0, None))
    return lambda images: vectorised_network(*stacked, images)


def _fold_norms(net):
    """A copy of `net` whose batch normalisations are replaced by a factor and a summand for each channel.

    On a GPU vmap has no batch normalisation for the memory layout in which cuDNN leaves its results.
    """
    import torch
    from torch import nn

    class Affine(nn.Module):
        def __init__(self, norm):
            super().__init__()
            factor = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
            self.register_buffer("factor", factor[:, None, None])
            self.register_buffer("summand", (norm.bias.detach() - norm.running_mean * factor)[:, None, None])

        def forward(self, x):
            return torch.addcmul(self.summand, x, self.factor)

    net = copy.deepcopy(net)
    for module_path, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, name = module_path.rpartition(".")
            setattr(net.get_submodule(parent), name, Affine(module))
    return net


def _make_grouped(nets) -> Evaluate:
    import torch
    from torch import nn

    n = len(nets)
    grouped_backbone = copy.deepcopy(nets[0].body)
    layers_by_member = [dict(net.body.named_modules()) for net in nets]
    is_first = True  # the first convolution: all members share the image
    for module_path, module in list(grouped_backbone.named_modules()):
        member_layers = [layers[module_path] for layers in layers_by_member]
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or module.bias is not None:
                raise ValueError("only a wide ResNet's convolutions can be grouped; use 'vmap'")
            n_channels = module.in_channels * (1 if is_first else n)
            joined = nn.Conv2d(
                n_channels, module.out_channels * n, module.kernel_size, module.stride, module.padding,
                groups=1 if is_first else n, bias=False,
            )  # fmt: skip
            joined.weight.data = torch.cat([m.weight.data for m in member_layers])
            is_first = False
        elif isinstance(module, nn.BatchNorm2d):
            joined = nn.BatchNorm2d(module.num_features * n, eps=module.eps)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(joined, name).data = torch.cat([getattr(m, name).data for m in member_layers])
        elif isinstance(module, nn.Linear | nn.LayerNorm) or hasattr(module, "drawn_from"):
            raise ValueError(f"a layer {type(module).__name__} cannot be grouped; use 'vmap'")
        else:
            continue
        parent, _, name = module_path.rpartition(".")
        setattr(grouped_backbone.get_submodule(parent), name, joined)
    grouped_backbone = grouped_backbone.eval().to(next(nets[0].parameters()).device, memory_format=torch.channels_last)
    weight = torch.stack([net.head.weight.data for net in nets])
    bias = torch.stack([net.head.bias.data for net in nets])

    def evaluate(images):
        images = images.contiguous(memory_format=torch.channels_last)
        embedding = grouped_backbone(images).unflatten(1, (n, -1)).transpose(0, 1)
        return torch.baddbmm(bias[:, None], embedding, weight.transpose(1, 2)), embedding

    return evaluate
