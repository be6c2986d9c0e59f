"""Which ConvNeXt named tensors are of, read off their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmconvnext.variants import VARIANTS, resolve_arch

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.")
DEPTHWISE = "stages.{}.{}.dwconv.weight"
STEM = "downsample_layers.0.0.weight"


class ArchSpec(NamedTuple):
    """The architecture of a ConvNeXt.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage; 0 where the tensor that tells is missing.
        use_grn: whether blocks have Global Response Normalisation (V2).
        has_layer_scale: whether blocks have a layer scale (V1).
        in_channels: of the image; 0 if unknown.
        kernel_size: of the depthwise convolutions; 0 if unknown.
        unsupported: what this backbone does not have, in words: another stem, another norm.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    use_grn: bool
    has_layer_scale: bool
    in_channels: int
    kernel_size: int
    unsupported: tuple[str, ...]

    @property
    def version(self) -> str:
        """``V1`` or ``V2``."""
        return "V2" if self.use_grn else "V1"

    @property
    def arch(self) -> str | None:
        """The variant of these depths and widths, if it has a name (of full depth)."""
        same = (n for n, v in VARIANTS.items() if tuple(v) == (self.depths, self.widths))
        return next(same, None)

    def __str__(self) -> str:
        """For example ``V1 tiny``."""
        shape = self.arch or f"depths={self.depths}, widths={self.widths}"
        return f"{self.version} {shape}"


def describe(tensors: Mapping[str, Tensor]) -> ArchSpec:
    """Read the architecture off the tensors of a ConvNeXt.

    Args:
        tensors: names in our layout, see :mod:`mmconvnext.weights.layouts`; some may be missing.
    """
    blocks = [(int(m[1]), int(m[2])) for m in map(BLOCK.match, tensors) if m]
    num_stages = max((stage for stage, _ in blocks), default=-1) + 1
    depths = tuple(
        max((b for s, b in blocks if s == stage), default=-1) + 1 for stage in range(num_stages)
    )
    stem = tensors.get(STEM)
    depthwise = [tensors.get(DEPTHWISE.format(stage, 0)) for stage in range(num_stages)]
    found = [w for w in depthwise if w is not None]
    return ArchSpec(
        depths=depths,
        widths=tuple(0 if w is None else w.shape[0] for w in depthwise),
        use_grn=any(".grn." in name for name in tensors),
        has_layer_scale=any(
            BLOCK.match(n) and n.endswith(".gamma") for n in tensors if ".grn." not in n
        ),
        in_channels=stem.shape[1] if stem is not None and stem.ndim == 4 else 0,
        kernel_size=found[0].shape[-1] if found else 0,
        unsupported=tuple(_unsupported(tensors)),
    )


def _unsupported(tensors: Mapping[str, Tensor]) -> list[str]:
    """What this backbone does not have: timm's variants of these names, among others."""
    found = []
    if any(name.startswith("downsample_layers.0.2.") for name in tensors):
        found.append("an overlapping stem (timm's _ols, of two convolutions)")
    norms = [n for n in tensors if re.match(r"stages\.\d+\.\d+\.norm\.weight$", n)]
    if norms and all(n.replace(".weight", ".bias") not in tensors for n in norms):
        found.append("RMS norm (timm's _rms: norms without a bias)")
    return found


# What no name or shape tells: timm's models of these depths and widths compute otherwise.
TIMM_EPS = "norms with an eps of 1e-5, where all others have 1e-6"
TIMM_UNSUPPORTED = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): f"{TIMM_EPS} (timm's convnext_xxlarge)",
    ((1, 2, 4, 2), (24, 32, 48, 64)): f"{TIMM_EPS} (timm's test_convnext)",
    ((1, 1, 1, 1), (32, 64, 96, 128)): f"{TIMM_EPS} (timm's test_convnext2 and test_convnext3)",
}


def timm_unsupported(layout: str, spec: ArchSpec) -> str | None:
    """What this backbone does not have of a model in timm's layout, known by depths and widths."""
    return TIMM_UNSUPPORTED.get((spec.depths, spec.widths)) if layout == "timm" else None


def expected_state_dict(spec: ArchSpec) -> dict[str, Tensor]:
    """The state dict of a backbone of a spec, with the output norms of all stages, without memory.

    Raises:
        ValueError: its depths or widths are not those of four stages, or it has no stem.
    """
    depths, widths = resolve_arch({"depths": spec.depths, "widths": spec.widths})
    if not spec.in_channels:
        raise ValueError("the stem is missing")
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    add("downsample_layers.0.0", widths[0], spec.in_channels, 4, 4)
    add("downsample_layers.0.1", widths[0])
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            add(f"downsample_layers.{stage}.0", widths[stage - 1])
            add(f"downsample_layers.{stage}.1", width, widths[stage - 1], 2, 2)
        add(f"norm{stage}", width)
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            add(f"{block}.dwconv", width, 1, spec.kernel_size, spec.kernel_size)
            add(f"{block}.norm", width)
            add(f"{block}.pwconv1", 4 * width, width)
            add(f"{block}.pwconv2", width, 4 * width)
            if spec.has_layer_scale:
                shapes[f"{block}.gamma"] = (width,)
            if spec.use_grn:
                names = (f"{block}.grn.gamma", f"{block}.grn.beta")
                shapes |= dict.fromkeys(names, (1, 1, 1, 4 * width))
    return {name: torch.empty(size, device="meta") for name, size in shapes.items()}
