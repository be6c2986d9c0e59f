"""What tensors say of a ConvNeXt's architecture; matching them to a backbone, strictly.

Tensors are named in our layout here, see :mod:`mmconvnext.weights.layouts`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn import functional

from mmconvnext.errors import WeightsError
from mmconvnext.variants import VARIANTS

Tensors = Mapping[str, Tensor]

SHOWN_KEYS = 4
BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.")
STAGE = re.compile(r"(?:downsample_layers|stages)\.(\d+)\.")
STEM = "downsample_layers.0.0.weight"
DEPTHWISE = re.compile(r"stages\.\d+\.\d+\.dwconv\.weight")
ADAPTATIONS = ("in_channels", "kernel_size")  # what may differ on request
# A classification file has these two and a detector needs neither ...
CLASSIFIER = re.compile(r"(norm|norms\.\d+|head|projectors)\.")
# ... and lacks these.
OUTPUT_NORM = re.compile(r"norm\d\.(weight|bias)")

# What no name or shape tells: timm's models of these depths and widths have another eps.
TIMM_EPS = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): "convnext_xxlarge",
    ((1, 2, 4, 2), (24, 32, 48, 64)): "test_convnext",
    ((1, 1, 1, 1), (32, 64, 96, 128)): "test_convnext2 and test_convnext3",
}


class ArchSpec(NamedTuple):
    """The architecture of a ConvNeXt; numbers are 0 where the tensor that tells is missing."""

    depths: tuple[int, ...]  # blocks of each stage
    widths: tuple[int, ...]  # channels of each stage
    hidden: tuple[tuple[int, ...], ...]  # hidden channels of each block of each stage
    use_grn: bool
    has_layer_scale: bool
    in_channels: int
    kernel_size: int
    unsupported: tuple[str, ...]  # what this backbone does not have, in words

    @property
    def arch(self) -> str | dict:
        """What ``arch`` has to be: a variant's name (of full depth) where it has one."""
        sizes = {"depths": self.depths, "widths": self.widths}
        if self.hidden != self._unpruned():
            return {**sizes, "hidden": self.hidden}
        names = {tuple(v): name for name, v in VARIANTS.items()}
        return names.get((self.depths, self.widths), sizes)

    def _unpruned(self) -> tuple[tuple[int, ...], ...]:
        return tuple((4 * w,) * d for d, w in zip(self.depths, self.widths, strict=True))

    def __str__(self) -> str:
        """For example ``V1 tiny``."""
        shape = self.arch
        if not isinstance(shape, str):
            shape = f"depths={self.depths}, widths={self.widths}"
        if self.hidden != self._unpruned():
            left, of = (sum(map(sum, each)) for each in (self.hidden, self._unpruned()))
            shape += f", pruned to {left} of {of} hidden channels"
        return f"{'V2' if self.use_grn else 'V1'} {shape}"


def describe(tensors: Tensors, layout: str = "") -> ArchSpec:
    """Read the architecture off the tensors, maybe not all, of a ConvNeXt in a file's layout."""
    blocks = {(int(m[1]), int(m[2])) for m in map(BLOCK.match, tensors) if m}
    stages = range(max(blocks)[0] + 1 if blocks else 0)
    depths = tuple(max((b + 1 for s, b in blocks if s == stage), default=0) for stage in stages)
    depthwise = [_kernel(tensors, f"stages.{stage}.0.dwconv.weight") for stage in stages]
    widths = tuple(0 if w is None else w.shape[0] for w in depthwise)
    hidden = tuple(
        tuple(_rows(tensors, f"stages.{stage}.{b}.pwconv1.weight", 4 * width) for b in range(depth))
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True))
    )
    stem = _kernel(tensors, STEM)
    unsupported = []
    if any(name.startswith("downsample_layers.0.2.") for name in tensors):
        unsupported.append("an overlapping stem (timm's _ols, of two convolutions)")
    norms = [n for n in tensors if re.fullmatch(r"stages\.\d+\.\d+\.norm\.weight", n)]
    if norms and all(n.replace(".weight", ".bias") not in tensors for n in norms):
        unsupported.append("RMS norm (timm's _rms: norms without a bias)")
    if layout == "timm" and (model := TIMM_EPS.get((depths, widths))):
        unsupported.append(f"norms with an eps of 1e-5, where others have 1e-6 (timm's {model})")
    return ArchSpec(
        depths=depths,
        widths=widths,
        hidden=hidden,
        use_grn=any(".grn." in name for name in tensors),
        has_layer_scale=any(re.fullmatch(r"stages\.\d+\.\d+\.gamma", name) for name in tensors),
        in_channels=0 if stem is None else stem.shape[1],
        kernel_size=next((w.shape[-1] for w in depthwise if w is not None), 0),
        unsupported=tuple(unsupported),
    )


def _kernel(tensors: Tensors, name: str) -> Tensor | None:
    """The kernel of a 2D convolution; None where it is missing or has no such shape."""
    kernel = tensors.get(name)
    return kernel if kernel is not None and kernel.ndim == 4 else None


def _rows(tensors: Tensors, name: str, default: int) -> int:
    """The rows of a matrix; the default where it is missing or none, or the default is unknown."""
    matrix = tensors.get(name)
    return matrix.shape[0] if matrix is not None and default and matrix.ndim > 1 else default


def explain_incomplete(tensors: Tensors, layout: str = "") -> str | None:
    """What keeps tensors from being the whole of the ConvNeXt that they describe, if anything."""
    spec = describe(tensors)
    if not spec.in_channels:
        return "it is not the whole of a ConvNeXt: the stem is missing"
    cfg = {name: getattr(spec, name) for name in ("in_channels", "kernel_size", "use_grn")}
    cfg["arch"] = spec.arch
    cfg["layer_scale_init_value"] = float(spec.has_layer_scale)
    try:
        with torch.device("meta"):
            # with the scope: of any other there may be a ConvNeXt, too
            own = MODELS.build({"type": "mmdet.ConvNeXt", **cfg}).state_dict()
        match(own, tensors, layout=layout)
    except WeightsError as error:
        return str(error)
    except ValueError as error:  # depths or widths with a gap: whole stages are missing
        return f"it is not the whole of a ConvNeXt: {error}"
    return None


def match(
    own: Tensors, tensors: Tensors, adapt: Collection[str] = (), layout: str = ""
) -> tuple[dict[str, Tensor], str, str]:
    """Match named tensors to those of a backbone.

    Exactly these differences are allowed: the classifier and the final norm of a classification
    model, which a detector does without; the detector's output norms, which a classification file
    lacks; stages that the backbone did not build; and on request, in ``adapt``, ``in_channels``
    (the stem's weights are summed for one channel, and otherwise repeated and scaled) and
    ``kernel_size`` (depthwise kernels are padded with zeros, or cut to their centre). Anything else
    is a WeightsError with the first names and shapes, and the likely reason.

    Returns:
        The tensors to load, how much of the backbone they fill, and what else there is to report.
    """
    check_adaptations(adapt, ADAPTATIONS, "adapt")
    stages = {m[1] for m in map(STAGE.match, own) if m}
    not_built = {k for k in tensors if (m := STAGE.match(k)) and m[1] not in stages}
    spare = {k for k in tensors if CLASSIFIER.match(k) or OUTPUT_NORM.fullmatch(k)} | not_built
    taken = {k: v for k, v in tensors.items() if k in own or k not in spare}
    adapted = _adapt(own, taken, adapt)
    # Output norms may be missing as a whole; half a one is a loss.
    there = {k.partition(".")[0] for k in taken}
    missing = [k for k in own if k not in taken]
    new = [k for k in missing if OUTPUT_NORM.fullmatch(k) and k.partition(".")[0] not in there]
    problems = _problems(own, taken, [k for k in missing if k not in new])
    spec = describe(tensors, layout)
    if problems or spec.unsupported:
        raise WeightsError(" ".join([*_reasons(describe(own), spec), *problems]))
    part = sum(own[k].numel() for k in taken) / sum(v.numel() for v in own.values())
    share = f"{len(taken)} of {len(own)} tensors ({part:.2%} of the parameters)"
    notes = {
        "new, not in the file": sorted(new),
        "in the file, not needed": sorted(tensors.keys() - taken.keys()),
        "adapted": adapted,
    }
    return taken, share, "".join(f"; {k}: {first(names)}" for k, names in notes.items() if names)


def check_adaptations(adapt: Collection[str], choices: Collection[str], name: str) -> None:
    """Raise WeightsError unless every adaptation of a setting is one of the choices."""
    if isinstance(adapt, str) or not set(adapt) <= set(choices):
        raise WeightsError(f"{name}={adapt!r} must be a list out of {', '.join(choices)}")


def first(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - SHOWN_KEYS
    return ", ".join(items[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def shape(tensor: Tensor) -> str:
    """A tensor's shape as text, for example ``96x3x4x4``."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def _adapt(own: Tensors, tensors: dict[str, Tensor], adapt: Collection[str]) -> list[str]:
    """Change in place what differs and may be adapted; what was changed, in words."""
    notes: dict[str, None] = {}
    for key, target in own.items():
        before = tensors.get(key)
        if before is None or before.ndim != 4 or before.shape == target.shape:
            continue
        if "in_channels" in adapt and key == STEM:
            old, new = before.shape[1], target.shape[1]
            # so that equal channels give equal maps
            repeated = before[:, torch.arange(new) % old] * (old / new)
            tensors[key] = before.sum(dim=1, keepdim=True) if new == 1 else repeated
            notes[f"in_channels {old} -> {new}"] = None
        elif "kernel_size" in adapt and DEPTHWISE.fullmatch(key):
            old, new = before.shape[-1], target.shape[-1]
            # zeros around it, or its centre; sizes are odd
            tensors[key] = functional.pad(before, ((new - old) // 2,) * 4)
            notes[f"kernel_size {old} -> {new}"] = None
    return list(notes)


def _problems(own: Tensors, tensors: Tensors, missing: Sequence[str]) -> list[str]:
    """A sentence for each kind of difference."""
    kinds: dict[str, list[str]] = {
        "No floating-point numbers": [],
        "Missing": [f"{k} {shape(own[k])}" for k in missing],
        "Unexpected": [],
        "Of another shape": [],
    }
    for name, tensor in tensors.items():
        if name not in own:
            kinds["Unexpected"].append(f"{name} {shape(tensor)}")
            continue
        if own[name].is_floating_point() and not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            kinds["No floating-point numbers"].append(f"{name} {dtype}")
        if own[name].shape != tensor.shape:
            kinds["Of another shape"].append(f"{name} {shape(tensor)} for {shape(own[name])}")
    return [f"{kind}: {first(names)}." for kind, names in kinds.items() if names]


def _reasons(own: ArchSpec, file: ArchSpec) -> list[str]:
    """The likely reason of a misfit, with the fix, if there is one to be seen."""
    if file.unsupported:
        parts = " and ".join(file.unsupported)
        return [f"The file's model has {parts}, which this backbone has not."]
    fixes = []
    stages = len(own.depths)
    sizes = ("depths", "widths", "hidden")
    if file.depths and any(getattr(own, n) != getattr(file, n)[:stages] for n in sizes):
        fixes.append(f"arch={file.arch!r}")
        if (own.depths, own.widths) != (file.depths[:stages], file.widths[:stages]):
            fixes.append(f"the neck's in_channels={list(file.widths)}")
    if own.use_grn != file.use_grn:
        fixes.append(f"use_grn={file.use_grn}")
    if own.has_layer_scale != file.has_layer_scale:
        fixes.append(f"layer_scale_init_value={float(file.has_layer_scale)}")
    reasons = [f"The file is {file}, the backbone {own}: set {', '.join(fixes)}."] if fixes else []
    for name in ADAPTATIONS:
        mine, theirs = getattr(own, name), getattr(file, name)
        if mine != theirs and theirs:
            reasons.append(
                f"{name} is {theirs} in the file and {mine} in the backbone: set it to {theirs}, "
                f"or ask for adapt=['{name}'] in init_cfg (of load_from: load_adapt=['{name}'])."
            )
    return reasons
