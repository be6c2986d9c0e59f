"""ConvNeXt of timm and torchvision under the weights of ours: independent implementations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmconvnext.models import ConvNeXt


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value that it would be noticed by."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            # of variance 1; normal numbers would take longer
            noise = 12**0.5 * (torch.rand(param.shape, generator=generator) - 0.5)
            if name.endswith("gamma"):
                param.copy_(0.5 + 0.1 * noise)
            elif param.ndim > 1:
                param.copy_(noise / param[0].numel() ** 0.5)
            else:
                param.copy_(0.1 * noise + (1 if "norm" in name and "weight" in name else 0))


def timm_layers(ours: ConvNeXt) -> list[nn.Module]:
    """timm's stem and stages, which begin with their downsampling."""
    from timm.models.convnext import ConvNeXt

    options = {"use_grn": True, "ls_init_value": None} if ours.use_grn else {}
    model = ConvNeXt(depths=ours.depths, dims=ours.widths, num_classes=0, **options)
    return [nn.Sequential(model.stem, model.stages[0]), *model.stages[1:]]


def torchvision_layers(ours: ConvNeXt) -> list[nn.Module]:
    """torchvision's stem or downsampling with the stage that follows."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    settings = map(CNBlockConfig, ours.widths, (*ours.widths[1:], None), ours.depths)
    model = ConvNeXt(list(settings), layer_scale=1.0)
    return [model.features[i : i + 2] for i in range(0, 8, 2)]


def share_weights(ours: ConvNeXt, peer: Iterable[nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
    """Copy ours into a peer, whose parameters have the same order: ours and its own by our name."""
    names = {id(param): name for name, param in ours.named_parameters()}
    layers = zip(ours.downsample_layers, ours.stages, strict=True)
    own = [param for pair in layers for layer in pair for param in layer.parameters()]
    theirs = [param for layer in peer for param in layer.parameters()]
    for our_param, their_param in zip(own, theirs, strict=True):
        with torch.no_grad():
            their_param.copy_(our_param.reshape(their_param.shape))
    return {names[id(a)]: (a, b) for a, b in zip(own, theirs, strict=True)}
