"""ConvNeXts of other libraries with random weights: their state dicts and their own features."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmconvnext.variants import VARIANTS, resolve_arch
from tests.models.peers import randomise
from tests.peers import transformers_peer

Arch = str | dict[str, tuple[int, ...]]
Features = Callable[[nn.Module, Tensor], list[Tensor]]


class Peer(NamedTuple):
    """A module of another library; ``features`` gives the maps after each stage."""

    module: nn.Module
    features: Features


def timm(name: str) -> Peer:
    import timm as library

    return Peer(_empty(lambda: library.create_model(name)), _stages)


def timm_clip(arch: str) -> Peer:
    """As open_clip has it: a trunk of timm with an MLP head, beside a tower for text."""
    from timm.models.convnext import ConvNeXt

    depths, widths = VARIANTS[arch]

    class Clip(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.Module()
            self.visual.trunk = ConvNeXt(depths=depths, dims=widths, head_hidden_size=24)
            self.text = nn.Linear(3, 3)

    return Peer(_empty(Clip), lambda model, x: _stages(model.visual.trunk, x))


def timm_features_only(name: str) -> Peer:
    import timm as library

    module = _empty(lambda: library.create_model(name, features_only=True))
    return Peer(module, lambda model, x: model(x))


def _stages(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = model.stem(x)
    return [x := stage(x) for stage in model.stages]


def _empty(build: Callable[[], nn.Module]) -> nn.Module:
    """Without the time that initialisation takes; all of it gets random values afterwards."""
    with torch.device("meta"):
        module = build()
    return module.to_empty(device="cpu")


def torchvision(arch: Arch) -> Peer:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    depths, widths = resolve_arch(arch)
    settings = list(map(CNBlockConfig, widths, (*widths[1:], None), depths))
    module = _empty(lambda: ConvNeXt(settings, num_classes=10))
    return Peer(module, lambda model, x: [x := layer(x) for layer in model.features][1::2])


def transformers(arch: Arch, kind: str, head: str = "Model") -> Peer:
    """Kind is ConvNext, ConvNextV2 or DINOv3ConvNext, head Model or ForImageClassification."""

    def features(model: nn.Module, x: Tensor) -> list[Tensor]:
        body = model if head == "Model" else model.base_model
        return list(body(x, output_hidden_states=True).hidden_states[1:])

    return Peer(_transformers(arch, kind, head, num_labels=10), features)


def transformers_backbone(arch: Arch, kind: str) -> Peer:
    """Here ``features`` are the maps after the output norms."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    module = _transformers(arch, kind, "Backbone", out_features=stages)
    return Peer(module, lambda model, x: list(model(x).feature_maps))


def _transformers(arch: Arch, kind: str, head: str, **kwargs) -> nn.Module:
    library = transformers_peer.library()
    depths, widths = map(list, resolve_arch(arch))
    config = getattr(library, f"{kind}Config")(depths=depths, hidden_sizes=widths, **kwargs)
    return _empty(lambda: getattr(library, f"{kind}{head}")(config))


@torch.no_grad()
def randomised(peer: Peer, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The state dict and the features of a module with random weights."""
    randomise(peer.module)
    for name, param in peer.module.named_parameters():
        if name.endswith("layer_scale_parameter") or name.endswith("layer_scale"):
            param.mul_(0.2).add_(0.5)
    peer.module.eval()
    return peer.module.state_dict(), peer.features(peer.module, x)


def sparse_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of the rule for official self-supervised V2 files: dense to sparse."""
    sparse = {}
    for name, value in state.items():
        *place, leaf = name.split(".")
        if name.startswith("downsample_layers.0."):  # the stem is dense
            sparse[name] = value
        elif place[-1] == "grn":
            sparse[name] = value.reshape(1, -1)
        elif value.ndim == 4:
            # the spatial axes swapped, then one axis of positions
            kernel = value.transpose(2, 3).flatten(2).permute(2, 1, 0)  # positions, in, out
            depthwise = value.shape[1] == 1
            sparse[".".join([*place, "kernel"])] = kernel[:, 0] if depthwise else kernel
        elif place[-1] == "dwconv" or (place[0], place[-1]) == ("downsample_layers", "1"):
            sparse[name] = value.unsqueeze(0)
        else:
            infix = "linear" if place[-1].startswith("pwconv") else "ln"
            sparse[".".join([*place, infix, leaf])] = value
    return {f"encoder.{k}": v for k, v in sparse.items()} | {
        "mask_token": torch.zeros(1, 8, 1, 1),
        "proj.weight": torch.zeros(8, 8, 1, 1),
        "decoder.0.dwconv.weight": torch.zeros(8, 1, 7, 7),
        "pred.bias": torch.zeros(8),
    }
