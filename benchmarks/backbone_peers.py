"""The ConvNeXt of each library, built for feature maps of all four stages.

Each builder takes depths and widths and gives the library's own model for detection: one that
returns a feature map for each stage, in its usual way. Imported is only the library that is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

NUM_STAGES = 4
LIBRARIES = ("timm", "torchvision", "transformers", "mmpretrain")
LAYER_SCALE = 1.0  # any value but 0 will do: weights are replaced

Shape = Sequence[int]
Builder = Callable[[Shape, Shape], nn.Module]


class Peer(NamedTuple):
    """A way to build and use a ConvNeXt.

    Attributes:
        build: from depths and widths.
        has_norms: whether it normalises the maps that it returns, as ours does.
        channels_last: whether model and image are in that memory format.
        folder: of the library in the environment's folder of peers, if it is there.
    """

    build: Builder
    has_norms: bool
    channels_last: bool = False
    folder: str | None = None


class Maps(nn.Module):
    """A model whose feature maps come as a tuple, whatever it returns.

    Args:
        model: of a library.
        maps: how to take the maps out of what it returns.
    """

    def __init__(self, model: nn.Module, maps: Callable[[object], Iterable[Tensor]] = tuple):
        super().__init__()
        self.model = model
        self._maps = maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the four feature maps of an image (N, 3, H, W)."""
        return tuple(self._maps(self.model(image)))


def _ours(depths: Shape, widths: Shape) -> nn.Module:
    from mmconvnext import ConvNeXt

    return Maps(ConvNeXt({"depths": depths, "widths": widths}))


def _ours_plain(depths: Shape, widths: Shape) -> nn.Module:
    from mmconvnext import ConvNeXt

    return Maps(ConvNeXt({"depths": depths, "widths": widths}, fused=False))


def _timm(depths: Shape, widths: Shape) -> nn.Module:
    timm = importlib.import_module("timm")
    stages = tuple(range(NUM_STAGES))
    sizes = {"depths": tuple(depths), "dims": tuple(widths)}
    return Maps(timm.create_model("convnext_tiny", features_only=True, out_indices=stages, **sizes))


def _torchvision(depths: Shape, widths: Shape) -> nn.Module:
    convnext = importlib.import_module("torchvision.models.convnext")
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    following = (*widths[1:], None)
    settings = [convnext.CNBlockConfig(*s) for s in zip(widths, following, depths, strict=True)]
    model = convnext.ConvNeXt(settings, stochastic_depth_prob=0.0, layer_scale=LAYER_SCALE)
    nodes = {f"features.{2 * stage + 1}": str(stage) for stage in range(NUM_STAGES)}
    return Maps(extraction.create_feature_extractor(model, nodes), lambda maps: maps.values())


def _transformers(depths: Shape, widths: Shape) -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = transformers.ConvNextConfig(
        depths=list(depths),
        hidden_sizes=list(widths),
        layer_scale_init_value=LAYER_SCALE,
        out_indices=list(range(1, NUM_STAGES + 1)),
    )
    return Maps(transformers.ConvNextBackbone(config), lambda output: output.feature_maps)


def _mmpretrain(depths: Shape, widths: Shape) -> nn.Module:
    module = importlib.import_module("mmpretrain.models.backbones.convnext")
    model = module.ConvNeXt(
        arch={"depths": list(depths), "channels": list(widths)},
        out_indices=list(range(NUM_STAGES)),
        gap_before_final_norm=False,
        layer_scale_init_value=LAYER_SCALE,
        drop_path_rate=0.0,
    )
    return Maps(model)


OURS = "ours"
OURS_PLAIN = "ours, plain"
# Ours choose their memory format themselves, whatever comes in.
PEERS: Mapping[str, Peer] = {
    OURS: Peer(_ours, has_norms=True),
    OURS_PLAIN: Peer(_ours_plain, has_norms=True),
    "timm": Peer(_timm, has_norms=False),
    "timm, channels_last": Peer(_timm, has_norms=False, channels_last=True),
    "torchvision": Peer(_torchvision, has_norms=False),
    "transformers": Peer(_transformers, has_norms=True, folder="transformers"),
    "mmpretrain": Peer(_mmpretrain, has_norms=True, folder="mmpretrain"),
}
