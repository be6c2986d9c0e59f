"""The ConvNeXt of each library as a detector uses it: a feature map a stage, with our weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.worker import PEERS as FOLDER
from benchmarks.worker import BenchmarkError
from mmconvnext.models.convnext import ConvNeXt
from mmconvnext.weights.layouts import convert, find_backbone

LIBRARIES = ("timm", "torchvision", "transformers", "mmpretrain")
STAGES = range(4)
SEED = 0
LAYER_SCALE = 1.0  # any value but 0 will do: weights are replaced


class Arch(NamedTuple):
    """Blocks and channels of each stage, and whether it is V2: with GRN, without layer scale."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    v2: bool = False


class Maps(nn.Module):
    """A library's model, whose feature maps ``maps`` takes out of what it returns."""

    def __init__(self, model: nn.Module, maps: Callable[[object], Iterable[Tensor]] = tuple):
        super().__init__()
        self.model = model
        self._maps = maps

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the four feature maps of an image (N, 3, H, W)."""
        return tuple(self._maps(self.model(image)))


def ours(arch: Arch, fused: bool | str = "auto") -> nn.Module:
    """Build ours."""
    scale = 0.0 if arch.v2 else LAYER_SCALE
    sizes = {"depths": arch.depths, "widths": arch.widths}
    return Maps(ConvNeXt(sizes, layer_scale_init_value=scale, use_grn=arch.v2, fused=fused))


def _timm(arch: Arch) -> nn.Module:
    timm = importlib.import_module("timm")
    name = "convnextv2_tiny" if arch.v2 else "convnext_tiny"
    sizes = {"depths": arch.depths, "dims": arch.widths, "out_indices": tuple(STAGES)}
    return Maps(timm.create_model(name, features_only=True, **sizes))


def _torchvision(arch: Arch) -> nn.Module:
    convnext = importlib.import_module("torchvision.models.convnext")
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    rows = zip(arch.widths, (*arch.widths[1:], None), arch.depths, strict=True)
    settings = [convnext.CNBlockConfig(*row) for row in rows]
    model = convnext.ConvNeXt(settings, stochastic_depth_prob=0.0, layer_scale=LAYER_SCALE)
    nodes = {f"features.{2 * stage + 1}": str(stage) for stage in STAGES}
    return Maps(extraction.create_feature_extractor(model, nodes), lambda maps: maps.values())


def _transformers(arch: Arch) -> nn.Module:
    library = importlib.import_module("transformers")
    name = "ConvNextV2" if arch.v2 else "ConvNext"
    scale = {} if arch.v2 else {"layer_scale_init_value": LAYER_SCALE}
    sizes = {"depths": list(arch.depths), "hidden_sizes": list(arch.widths)}
    indices = [stage + 1 for stage in STAGES]
    config = getattr(library, f"{name}Config")(**sizes, **scale, out_indices=indices)
    return Maps(getattr(library, f"{name}Backbone")(config), lambda output: output.feature_maps)


def _mmpretrain(arch: Arch) -> nn.Module:
    module = importlib.import_module("mmpretrain.models.backbones.convnext")
    model = module.ConvNeXt(
        arch={"depths": list(arch.depths), "channels": list(arch.widths)},
        out_indices=list(STAGES),
        gap_before_final_norm=False,
        layer_scale_init_value=0.0 if arch.v2 else LAYER_SCALE,
        use_grn=arch.v2,
        drop_path_rate=0.0,
    )
    return Maps(model)


class Peer(NamedTuple):
    """A way to build and use a ConvNeXt.

    Attributes:
        build: from its architecture.
        has_norms: whether it normalises the maps that it returns, as ours does.
        channels_last: whether model and image are in that memory format.
        has_v2: whether the library has V2.
    """

    build: Callable[[Arch], nn.Module]
    has_norms: bool
    channels_last: bool = False
    has_v2: bool = True


OURS, OURS_PLAIN = "ours", "ours, plain"
# Ours choose their memory format themselves, whatever comes in.
PEERS: Mapping[str, Peer] = {
    OURS: Peer(ours, has_norms=True),
    OURS_PLAIN: Peer(lambda arch: ours(arch, fused=False), has_norms=True),
    "timm": Peer(_timm, has_norms=False),
    "timm, channels_last": Peer(_timm, has_norms=False, channels_last=True),
    "torchvision": Peer(_torchvision, has_norms=False, has_v2=False),
    "transformers": Peer(_transformers, has_norms=True),
    "mmpretrain": Peer(_mmpretrain, has_norms=True),
}


def python_path(library: str) -> tuple[str, ...]:
    """The folder of a library that lies in one of its own, if it does."""
    return (str(FOLDER / library),) if (FOLDER / library).is_dir() else ()


def random_weights(arch: Arch) -> dict[str, Tensor]:
    """Draw weights of our names that an error would show with: no part of the sum is small."""
    with torch.device("meta"):
        shapes = ours(arch).model.state_dict()
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, tensor in shapes.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("gamma"):
            weights[name] = 0.3 + 0.1 * noise
        elif tensor.ndim > 1:
            weights[name] = noise / tensor[0].numel() ** 0.5
        else:  # biases, and the norms' weights
            weights[name] = 0.1 * noise + name.endswith("weight")
    return weights


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy our weights into a model of any layout.

    Its own tensors are renamed to ours; renaming copies nothing, so what is written into the
    renamed ones is in the model.

    Raises:
        BenchmarkError: the model has parameters that ours has not, or the other way round (output
            norms aside), or they would not be in the model.
    """
    own = dict(model.state_dict())
    converted = convert(own, find_backbone(own))
    unknown = sorted(set(converted) - set(weights))
    unfilled = sorted(n for n in set(weights) - set(converted) if not n.startswith("norm"))
    if unknown or unfilled:
        raise BenchmarkError(
            f"its parameters are not ours: only it has {unknown[:3]}, only ours {unfilled[:3]}"
        )
    addresses = {address(param) for param in model.parameters()}
    for name, target in converted.items():
        target.copy_(weights[name])
        addresses.discard(address(target))
    if addresses:
        raise BenchmarkError(f"{len(addresses)} of its parameters did not get our weights")


def address(tensor: Tensor) -> int:
    """Where a tensor's storage is: tensors that share it have the same."""
    return tensor.untyped_storage().data_ptr()


def named_like_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a library's tensors to our names."""
    return convert(dict(tensors), find_backbone(tensors))


def map_shapes(arch: Arch, shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The channels and the height and width of each of the four maps of an image."""
    return [(arch.widths[i], *(side // 2 ** (i + 2) for side in shape)) for i in STAGES]
