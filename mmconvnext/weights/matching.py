"""What tensors say of a ConvNeXt's architecture; matching them to a backbone, strictly. Pure.

Tensors are named in our layout here, see :mod:`mmconvnext.weights.layouts`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmconvnext.variants import VARIANTS, resolve_arch

Tensors = Mapping[str, Tensor]

SHOWN_KEYS = 4
# Axes of a weight that may differ on request.
ADAPTATIONS = {"in_channels": 1, "kernel_size": 3}

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.")
STAGE = re.compile(r"(?:downsample_layers|stages)\.(\d+)\.")
STEM = "downsample_layers.0.0.weight"
DEPTHWISE = re.compile(r"stages\.\d+\.\d+\.dwconv\.weight")
# A classification file has these two and a detector needs neither ...
CLASSIFIER = re.compile(r"(norm|norms\.\d+|head|projectors)\.")
# ... and lacks these.
OUTPUT_NORM = re.compile(r"norm\d\.(weight|bias)")

# What no name or shape tells: timm's models of these depths and widths compute otherwise.
TIMM_EPS = "norms with an eps of 1e-5, where all others have 1e-6"
TIMM_UNSUPPORTED = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): f"{TIMM_EPS} (timm's convnext_xxlarge)",
    ((1, 2, 4, 2), (24, 32, 48, 64)): f"{TIMM_EPS} (timm's test_convnext)",
    ((1, 1, 1, 1), (32, 64, 96, 128)): f"{TIMM_EPS} (timm's test_convnext2 and test_convnext3)",
}


class MisfitError(ValueError):
    """A state dict that does not fit; the message says how and why."""


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
    def arch(self) -> str | None:
        """The variant of these depths and widths, if it has a name (of full depth)."""
        same = (n for n, v in VARIANTS.items() if tuple(v) == (self.depths, self.widths))
        return next(same, None)

    def __str__(self) -> str:
        """For example ``V1 tiny``."""
        shape = self.arch or f"depths={self.depths}, widths={self.widths}"
        return f"{'V2' if self.use_grn else 'V1'} {shape}"


def describe(tensors: Tensors, layout: str = "") -> ArchSpec:
    """Read the architecture off the tensors of a ConvNeXt, some of which may be missing.

    Args:
        tensors: by name.
        layout: that the file has; models in timm's are known by their depths and widths.
    """
    last: dict[int, int] = {}  # block of each stage
    for found in filter(None, map(BLOCK.match, tensors)):
        stage, block = int(found[1]), int(found[2])
        last[stage] = max(block, last.get(stage, 0))
    stages = range(max(last, default=-1) + 1)
    depths = tuple(last.get(stage, -1) + 1 for stage in stages)
    depthwise = [tensors.get(f"stages.{stage}.0.dwconv.weight") for stage in stages]
    widths = tuple(0 if w is None else w.shape[0] for w in depthwise)
    stem = tensors.get(STEM)
    unsupported = _unsupported_parts(tensors)
    if layout == "timm" and (depths, widths) in TIMM_UNSUPPORTED:
        unsupported.append(TIMM_UNSUPPORTED[depths, widths])
    return ArchSpec(
        depths=depths,
        widths=widths,
        use_grn=any(".grn." in name for name in tensors),
        has_layer_scale=any(
            BLOCK.match(n) and n.endswith(".gamma") for n in tensors if ".grn." not in n
        ),
        in_channels=stem.shape[1] if stem is not None and stem.ndim == 4 else 0,
        kernel_size=next((w.shape[-1] for w in depthwise if w is not None), 0),
        unsupported=tuple(unsupported),
    )


def _unsupported_parts(tensors: Tensors) -> list[str]:
    parts = []
    if any(name.startswith("downsample_layers.0.2.") for name in tensors):
        parts.append("an overlapping stem (timm's _ols, of two convolutions)")
    norms = [n for n in tensors if re.match(r"stages\.\d+\.\d+\.norm\.weight$", n)]
    if norms and all(n.replace(".weight", ".bias") not in tensors for n in norms):
        parts.append("RMS norm (timm's _rms: norms without a bias)")
    return parts


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


def explain_incomplete(tensors: Tensors) -> str | None:
    """Match tensors to the backbone that they themselves describe.

    Returns:
        What is missing, unexpected or of another shape; None if they are whole.
    """
    try:
        match(expected_state_dict(describe(tensors)), tensors)
    except MisfitError as error:
        return str(error)
    except ValueError as error:  # depths or widths with a gap: whole stages or the stem are missing
        return f"it is not the whole of a ConvNeXt: {error}"
    return None


class Match(NamedTuple):
    """What of a file goes into a backbone, and what not.

    Attributes:
        tensors: to load, by the backbone's names.
        total: number of the backbone's tensors.
        share: of the backbone's parameters that the tensors fill, in 0-1.
        new: the backbone's tensors that the file lacks and may lack.
        left_out: the file's tensors that the backbone does without.
        adapted: what was changed on request, in words.
    """

    tensors: dict[str, Tensor]
    total: int
    share: float
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    adapted: tuple[str, ...]

    def report(self, origin: str) -> str:
        """One line: how much was loaded from where, what was not, what was adapted."""
        loaded = f"{len(self.tensors)} of {self.total} tensors ({self.share:.2%} of the parameters)"
        rest = {
            "new, not in the file": self.new,
            "in the file, not needed": self.left_out,
            "adapted": self.adapted,
        }
        shown = (f"; {words}: {first(names)}" for words, names in rest.items() if names)
        return f"{loaded} from {origin}{''.join(shown)}"


def match(own: Tensors, tensors: Tensors, adapt: Collection[str] = (), layout: str = "") -> Match:
    """Match named tensors to those of a backbone.

    Exactly these differences are allowed: the classifier and the final norm of a classification
    model, which a detector does without; the detector's output norms, which a classification file
    lacks; stages that the backbone did not build.

    Args:
        own: the backbone's state dict.
        tensors: of the file.
        adapt: differences to adapt, out of ``in_channels`` (the stem's weights are summed for one
            channel, and otherwise repeated and scaled) and ``kernel_size`` (depthwise kernels are
            padded with zeros, which changes nothing, or cut to their centre).
        layout: that the file has, see :func:`describe`.

    Raises:
        MisfitError: anything else is different; the message shows the first names and shapes, and
            the likely reason.
        ValueError: ``adapt`` has something else.
    """
    check_adaptations(adapt)
    num_stages = len({m[1] for m in map(STAGE.match, own) if m})
    left_out = {k for k in tensors.keys() - own.keys() if _is_not_needed(k, num_stages)}
    taken = {k: v for k, v in tensors.items() if k not in left_out}
    adapted = _adapt(own, taken, adapt)
    # Output norms may be missing as a whole; half a one is a loss.
    there = {k.partition(".")[0] for k in taken}
    missing = [k for k in own if k not in taken]
    new = [k for k in missing if OUTPUT_NORM.fullmatch(k) and k.partition(".")[0] not in there]
    problems = _problems(own, taken, [k for k in missing if k not in new])
    spec = describe(tensors, layout)
    if problems or spec.unsupported:
        raise MisfitError(" ".join([*_reasons(describe(own), spec), *problems]))
    filled = sum(own[k].numel() for k in taken)
    return Match(
        tensors=taken,
        total=len(own),
        share=filled / sum(v.numel() for v in own.values()),
        new=tuple(sorted(new)),
        left_out=tuple(sorted(left_out)),
        adapted=tuple(adapted),
    )


def check_adaptations(adapt: Collection[str], choices: Collection[str] = ADAPTATIONS) -> None:
    """Raise ValueError unless every adaptation is one of the choices."""
    if isinstance(adapt, str) or any(name not in tuple(choices) for name in adapt):
        raise ValueError(f"adapt={adapt!r} must be a list out of {', '.join(choices)}")


def first(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - SHOWN_KEYS
    return ", ".join(items[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def shape(tensor: Tensor) -> str:
    """A tensor's shape as text, for example ``96x3x4x4``."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def _is_not_needed(key: str, num_stages: int) -> bool:
    """Whether a tensor of the file belongs to a part that the backbone does without."""
    stage = STAGE.match(key)
    beyond = stage is not None and int(stage[1]) >= num_stages
    return beyond or bool(CLASSIFIER.match(key) or OUTPUT_NORM.fullmatch(key))


def _problems(own: Tensors, tensors: Tensors, missing: Sequence[str]) -> list[str]:
    """A sentence for each kind of difference."""
    both = [k for k in own if k in tensors]
    kinds = {
        "No floating-point numbers": [
            f"{k} {str(tensors[k].dtype).removeprefix('torch.')}"
            for k in both
            if not tensors[k].is_floating_point()
        ],
        "Missing": [f"{k} {shape(own[k])}" for k in missing],
        "Unexpected": [f"{k} {shape(v)}" for k, v in tensors.items() if k not in own],
        "Of another shape": [
            f"{k} {shape(tensors[k])} for {shape(own[k])}"
            for k in both
            if own[k].shape != tensors[k].shape
        ],
    }
    return [f"{kind}: {first(names)}." for kind, names in kinds.items() if names]


def _reasons(own: ArchSpec, file: ArchSpec) -> list[str]:
    """The likely reason of a misfit, with the fix; empty if there is none to be seen."""
    if file.unsupported:
        parts = " and ".join(file.unsupported)
        return [f"The file's model has {parts}, which this backbone has not."]
    fixes = []
    stages = len(own.depths)
    if (own.depths, own.widths) != (file.depths[:stages], file.widths[:stages]) and file.depths:
        arch = f"dict(depths={file.depths}, widths={file.widths})"
        fixes.append(f"arch='{file.arch}'" if file.arch else f"arch={arch}")
        fixes.append(f"the neck's in_channels={list(file.widths)}")
    if own.use_grn != file.use_grn:
        fixes.append(f"use_grn={file.use_grn}")
    if own.has_layer_scale != file.has_layer_scale:
        fixes.append(f"layer_scale_init_value={1.0 if file.has_layer_scale else 0.0}")
    reasons = []
    if fixes:
        reasons.append(f"The file is {file}, the backbone {own}: set {', '.join(fixes)}.")
    for name in ADAPTATIONS:
        mine, theirs = getattr(own, name), getattr(file, name)
        if mine != theirs and theirs:
            reasons.append(
                f"{name} is {theirs} in the file and {mine} in the backbone: set it to {theirs}, "
                f"or ask for adapt=['{name}'] in init_cfg (of load_from: load_adapt=['{name}'])."
            )
    return reasons


def _adapt(own: Tensors, tensors: dict[str, Tensor], adapt: Collection[str]) -> list[str]:
    """Change in place what differs and may be adapted; what was changed, in words."""
    notes = {}
    for key in tensors.keys() & own.keys():
        before, target = tensors[key], own[key]
        if key == STEM:
            name, change = "in_channels", _other_channels
        elif DEPTHWISE.fullmatch(key):
            name, change = "kernel_size", _other_kernel_size
        else:
            continue
        if name in adapt and before.ndim == 4 and before.shape != target.shape:
            tensors[key] = change(before, target)
            axis = ADAPTATIONS[name]
            notes[name] = f"{name} {before.shape[axis]} -> {target.shape[axis]}"
    return [notes[name] for name in ADAPTATIONS if name in notes]


def _other_channels(weight: Tensor, target: Tensor) -> Tensor:
    """The stem's weights for other numbers of channels, so that equal channels give equal maps."""
    channels, wanted = weight.shape[1], target.shape[1]
    if wanted == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight[:, torch.arange(wanted) % channels]
    return repeated * (channels / wanted)


def _other_kernel_size(weight: Tensor, target: Tensor) -> Tensor:
    """A depthwise kernel with zeros around it, or its centre; sizes are odd."""
    margin = (target.shape[-1] - weight.shape[-1]) // 2
    return functional.pad(weight, (margin,) * 4)
