"""ConvNeXt of timm and torchvision under the weights of ours: independent implementations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmconvnext.models import ConvNeXt
from mmconvnext.variants import VARIANTS

TORCHVISION_BLOCK = {0: "dwconv", 2: "norm", 3: "pwconv1", 5: "pwconv2"}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value that it would be noticed by."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator)
            if name.endswith("gamma"):
                param.copy_(0.5 + 0.1 * noise)
            elif param.ndim > 1:
                param.copy_(noise / param[0].numel() ** 0.5)
            else:
                param.copy_(0.1 * noise + (1 if "norm" in name and "weight" in name else 0))


class TimmPeer(nn.Module):
    """timm's stages; ``names`` maps our parameter names to its own."""

    def __init__(self, arch: str):
        super().__init__()
        import timm.models.convnext as convnext

        depths, widths = VARIANTS[arch]
        self.model = convnext.ConvNeXt(depths=depths, dims=widths, num_classes=0)

    def load(self, ours: ConvNeXt) -> dict[str, str]:
        own = dict(self.model.named_parameters())
        names = {name: _timm_name(name) for name in dict(ours.named_parameters())}
        return _copy(ours, own, {k: v for k, v in names.items() if v is not None}, self.model)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.model.stem(x)
        outs = []
        for stage in self.model.stages:
            x = stage(x)
            outs.append(x)
        return outs


class TorchvisionPeer(nn.Module):
    """torchvision's stages; ``names`` maps our parameter names to its own."""

    def __init__(self, arch: str):
        super().__init__()
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        depths, widths = VARIANTS[arch]
        nexts = [*widths[1:], None]
        settings = [CNBlockConfig(w, n, d) for w, n, d in zip(widths, nexts, depths, strict=True)]
        self.model = ConvNeXt(settings, layer_scale=1.0)

    def load(self, ours: ConvNeXt) -> dict[str, str]:
        own = dict(self.model.named_parameters())
        names = {name: _torchvision_name(name) for name in dict(ours.named_parameters())}
        return _copy(ours, own, {k: v for k, v in names.items() if v is not None}, self.model)

    def forward(self, x: Tensor) -> list[Tensor]:
        outs = []
        for index, layer in enumerate(self.model.features):
            x = layer(x)
            if index % 2 == 1:
                outs.append(x)
        return outs


def _timm_name(name: str) -> str | None:
    kind, *rest = name.split(".")
    if kind == "downsample_layers":
        stage, index, leaf = rest
        return (
            f"stem.{index}.{leaf}" if stage == "0" else f"stages.{stage}.downsample.{index}.{leaf}"
        )
    if kind == "stages":
        stage, block, *leaf = rest
        leaf = ".".join(leaf)
        for ours, theirs in (("dwconv", "conv_dw"), ("pwconv1", "mlp.fc1"), ("pwconv2", "mlp.fc2")):
            leaf = leaf.replace(ours, theirs)
        return f"stages.{stage}.blocks.{block}.{leaf}"
    return None


def _torchvision_name(name: str) -> str | None:
    kind, *rest = name.split(".")
    if kind == "downsample_layers":
        stage, index, leaf = rest
        return f"features.{2 * int(stage)}.{index}.{leaf}"
    if kind == "stages":
        stage, block, *leaf = rest
        place = f"features.{2 * int(stage) + 1}.{block}"
        if leaf == ["gamma"]:
            return f"{place}.layer_scale"
        index = {v: k for k, v in TORCHVISION_BLOCK.items()}[leaf[0]]
        return f"{place}.block.{index}.{leaf[1]}"
    return None


def _copy(ours: ConvNeXt, own: dict, names: dict[str, str], model: nn.Module) -> dict[str, str]:
    weights = dict(ours.named_parameters())
    with torch.no_grad():
        for our_name, their_name in names.items():
            own[their_name].copy_(weights[our_name].reshape(own[their_name].shape))
    used = set(names.values())
    left = [
        n for n in own if n not in used and not n.startswith(("head", "norm_pre", "classifier"))
    ]
    assert not left, f"{type(model).__name__} has parameters that ours has not: {left}"
    return names
