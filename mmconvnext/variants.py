"""The table of ConvNeXt variants: how deep and how wide each stage is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

NUM_STAGES = 4


class Variant(NamedTuple):
    """Blocks and channels of the four stages of one ConvNeXt."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


# T, S, B, L, XL: "A ConvNet for the 2020s" (arXiv 2201.03545), section 3; the others:
# "ConvNeXt V2" (arXiv 2301.00808), appendix A.1.
VARIANTS: dict[str, Variant] = {
    "atto": Variant((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Variant((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Variant((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Variant((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Variant((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Variant((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Variant((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Variant((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": Variant((3, 3, 27, 3), (352, 704, 1408, 2816)),
}


def resolve_arch(arch: str | Mapping[str, Sequence[int]]) -> Variant:
    """Look a variant up by name, or read one from ``dict(depths=..., widths=...)``.

    A mapping may have ``hidden``, too: see :func:`resolve_hidden`.

    Raises:
        ValueError: the name is unknown, a key is missing or unknown, or a sequence does not have
            four positive integers.
        TypeError: ``arch`` is neither a name nor a mapping.
    """
    if isinstance(arch, str):
        if arch not in VARIANTS:
            raise ValueError(
                f"arch={arch!r} is not a ConvNeXt variant; choose one of {', '.join(VARIANTS)}, "
                "or give dict(depths=(...), widths=(...)) with four numbers each"
            )
        return VARIANTS[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(
            f"arch={arch!r} is a {type(arch).__name__}; it must be a name ({', '.join(VARIANTS)}) "
            "or dict(depths=(...), widths=(...))"
        )
    if set(arch) - {"hidden"} != {"depths", "widths"}:
        raise ValueError(
            f"arch has the keys {sorted(map(str, arch))}; it must have exactly 'depths' and "
            "'widths', four numbers each, and may have 'hidden'"
        )
    for key in ("depths", "widths"):
        values = arch[key]
        is_four = isinstance(values, Sequence) and len(values) == NUM_STAGES
        if not is_four or not all(map(is_positive_int, values)):
            raise ValueError(
                f"arch[{key!r}]={values!r} must be {NUM_STAGES} positive integers, one a stage"
            )
    return Variant(tuple(arch["depths"]), tuple(arch["widths"]))


def resolve_hidden(arch: str | Mapping[str, Sequence]) -> tuple[tuple[int, ...], ...]:
    """The channels between the two linear layers of each block, by stage.

    Four times the stage's width, or those of ``dict(depths=..., widths=..., hidden=...)``, which
    ``mmconvnext prune`` leaves.

    Raises:
        ValueError: as of :func:`resolve_arch`, or ``hidden`` is not a sequence for each stage with
            a positive integer for each block.
        TypeError: ``arch`` is neither a name nor a mapping.
    """
    depths, widths = resolve_arch(arch)
    hidden = None if isinstance(arch, str) else arch.get("hidden")
    if hidden is None:
        return tuple((4 * width,) * depth for depth, width in zip(depths, widths, strict=True))
    fits = isinstance(hidden, Sequence) and all(isinstance(each, Sequence) for each in hidden)
    fits = fits and tuple(map(len, hidden)) == depths
    if not fits or not all(map(is_positive_int, chain(*hidden))):
        raise ValueError(
            f"arch['hidden']={hidden!r} must be a sequence for each stage, with a positive integer "
            f"for each of its blocks: {', '.join(map(str, depths))} of them"
        )
    return tuple(map(tuple, hidden))


def is_positive_int(value: object) -> bool:
    """Whether ``value`` is an integer above 0 (``True`` is not one)."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: object) -> bool:
    """Whether ``value`` is an integer or a float (``True`` is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
