"""What kind of ConvNeXt named tensors describe, read off their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.")
DEPTHWISE = "stages.{}.{}.dwconv.weight"
STEM = "downsample_layers.0.0.weight"


class Anatomy(NamedTuple):
    """The kind of a ConvNeXt.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage; 0 where the tensor that tells is missing.
        use_grn: whether blocks have Global Response Normalisation (V2).
        has_layer_scale: whether blocks have a layer scale (V1).
        in_channels: of the image; 0 if unknown.
        kernel_size: of the depthwise convolutions; 0 if unknown.
        odd: what this backbone cannot be, in words: another stem, another normalisation.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    use_grn: bool
    has_layer_scale: bool
    in_channels: int
    kernel_size: int
    odd: tuple[str, ...]

    @property
    def version(self) -> str:
        """``V1`` or ``V2``."""
        return "V2" if self.use_grn else "V1"

    @property
    def arch(self) -> str | None:
        """The variant of these depths and widths, if it has a name (of full depth)."""
        # Not at the top: the backbone's package imports this one.
        from mmconvnext.variants import VARIANTS

        same = (n for n, v in VARIANTS.items() if tuple(v) == (self.depths, self.widths))
        return next(same, None)

    def __str__(self) -> str:
        """For example ``V1 tiny``."""
        shape = self.arch or f"depths={self.depths}, widths={self.widths}"
        return f"{self.version} {shape}"


def describe(tensors: Mapping[str, Tensor]) -> Anatomy:
    """Read the kind of a ConvNeXt off its tensors.

    Args:
        tensors: names in our layout, see :mod:`mmconvnext.weights.formats`; some may be missing.
    """
    blocks = [(int(m[1]), int(m[2])) for m in map(BLOCK.match, tensors) if m]
    num_stages = max((stage for stage, _ in blocks), default=-1) + 1
    depths = tuple(
        max((b for s, b in blocks if s == stage), default=-1) + 1 for stage in range(num_stages)
    )
    stem = tensors.get(STEM)
    depthwise = [tensors.get(DEPTHWISE.format(stage, 0)) for stage in range(num_stages)]
    known = [w for w in depthwise if w is not None]
    return Anatomy(
        depths=depths,
        widths=tuple(0 if w is None else w.shape[0] for w in depthwise),
        use_grn=any(".grn." in name for name in tensors),
        has_layer_scale=any(
            BLOCK.match(n) and n.endswith(".gamma") for n in tensors if ".grn." not in n
        ),
        in_channels=stem.shape[1] if stem is not None and stem.ndim == 4 else 0,
        kernel_size=known[0].shape[-1] if known else 0,
        odd=tuple(_odd(tensors)),
    )


def _odd(tensors: Mapping[str, Tensor]) -> list[str]:
    """What this backbone does not have: timm's variants of these names, among others."""
    odd = []
    if any(name.startswith("downsample_layers.0.2.") for name in tensors):
        odd.append("an overlapping stem (timm's _ols, of two convolutions)")
    norms = [n for n in tensors if re.match(r"stages\.\d+\.\d+\.norm\.weight$", n)]
    if norms and all(n.replace(".weight", ".bias") not in tensors for n in norms):
        odd.append("RMS norm (timm's _rms: norms without a bias)")
    return odd


# What no name or shape tells: timm's models of these depths and widths compute otherwise.
TIMM_EPS = "norms with an eps of 1e-5, where all others have 1e-6"
TIMM_ODD = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): f"{TIMM_EPS} (timm's convnext_xxlarge)",
    ((1, 2, 4, 2), (24, 32, 48, 64)): f"{TIMM_EPS} (timm's test_convnext)",
    ((1, 1, 1, 1), (32, 64, 96, 128)): f"{TIMM_EPS} (timm's test_convnext2 and test_convnext3)",
}


def timm_odd(layout: str, anatomy: Anatomy) -> str | None:
    """What this backbone does not have of a model in timm's layout, known by depths and widths."""
    return TIMM_ODD.get((anatomy.depths, anatomy.widths)) if layout == "timm" else None
