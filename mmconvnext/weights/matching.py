"""Matching a state dict to a backbone: strict, explained, and adapted only on request. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmconvnext.weights.spec import ArchSpec, describe, expected_state_dict

SHOWN_KEYS = 4
ADAPTATIONS = ("in_channels", "kernel_size")

# FACTS of detection: a classification file has these two and a detector needs neither ...
CLASSIFIER = re.compile(r"(norm|norms\.\d+|head|projectors)\.")
# ... and lacks these.
OUTPUT_NORM = re.compile(r"norm\d\.(weight|bias)")
STAGE = re.compile(r"(?:downsample_layers|stages)\.(\d+)\.")
STEM_WEIGHT = re.compile(r"downsample_layers\.0\.0\.weight")
DEPTHWISE_WEIGHT = re.compile(r"stages\.\d+\.\d+\.dwconv\.weight")


class MisfitError(ValueError):
    """A state dict that does not fit; the message says how and why."""


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
        line = f"{len(self.tensors)} of {self.total} tensors ({self.share:.2%} of the parameters)"
        line += f" from {origin}"
        if self.new:
            line += f"; new, not in the file: {first(self.new)}"
        if self.left_out:
            line += f"; in the file, not needed: {first(self.left_out)}"
        if self.adapted:
            line += f"; adapted: {', '.join(self.adapted)}"
        return line


def match(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], adapt: Collection[str] = ()
) -> Match:
    """Match named tensors to those of a backbone.

    Exactly these differences are allowed (FACTS of the field, section 5): the classifier and the
    final norm of a classification model, which a detector does without; the detector's output
    norms, which a classification file lacks; stages that the backbone did not build.

    Args:
        own: the backbone's state dict.
        tensors: in our layout.
        adapt: differences to adapt, out of ``in_channels`` (the stem's weights are summed for one
            channel, and otherwise repeated and scaled) and ``kernel_size`` (depthwise kernels are
            padded with zeros, which changes nothing, or cut to their centre).

    Raises:
        MisfitError: anything else is different; the message shows the first names and shapes, and
            the likely reason.
        ValueError: ``adapt`` has something else.
    """
    check_adaptations(adapt)
    num_stages = len({m[1] for m in map(STAGE.match, own) if m})
    left_out = {k for k in tensors.keys() - own.keys() if _is_not_needed(k, num_stages)}
    taken = {k: v for k, v in tensors.items() if k not in left_out}
    taken, adapted = _adapted(own, taken, adapt)
    new = _missing_norms(own, taken)
    problems = _problems(own, taken, new)
    unsupported = describe(tensors).unsupported
    if problems or unsupported:
        raise MisfitError(" ".join([*_reasons(describe(own), describe(tensors)), *problems]))
    filled = sum(own[k].numel() for k in taken)
    return Match(
        tensors=taken,
        total=len(own),
        share=filled / sum(v.numel() for v in own.values()),
        new=tuple(sorted(new)),
        left_out=tuple(sorted(left_out)),
        adapted=tuple(adapted),
    )


def explain_incomplete(tensors: Mapping[str, Tensor]) -> str | None:
    """Match tensors to the backbone that they themselves describe.

    Args:
        tensors: in our layout.

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


def check_adaptations(adapt: Collection[str], choices: Sequence[str] = ADAPTATIONS) -> None:
    """Raise ValueError unless every adaptation is one of the choices."""
    names = [adapt] if isinstance(adapt, str) else list(adapt)
    unknown = [name for name in names if name not in choices]
    if unknown or isinstance(adapt, str):
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


def _missing_norms(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> set[str]:
    """Output norms that the file lacks as a whole; half a one is a loss."""
    there = {k.partition(".")[0] for k in tensors}
    missing = own.keys() - tensors.keys()
    return {k for k in missing if OUTPUT_NORM.fullmatch(k) and k.partition(".")[0] not in there}


def _problems(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], new: set[str]) -> list[str]:
    missing = [k for k in own if k not in tensors and k not in new]
    unexpected = [k for k in tensors if k not in own]
    other_shape = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    no_floats = [k for k in own if k in tensors and not tensors[k].is_floating_point()]
    sentences = []
    if no_floats:
        names = [f"{k} {str(tensors[k].dtype).removeprefix('torch.')}" for k in no_floats]
        sentences.append(f"No floating-point numbers: {first(names)}.")
    if missing:
        sentences.append(f"Missing: {first([f'{k} {shape(own[k])}' for k in missing])}.")
    if unexpected:
        names = [f"{k} {shape(tensors[k])}" for k in unexpected]
        sentences.append(f"Unexpected: {first(names)}.")
    if other_shape:
        pairs = [f"{k} {shape(tensors[k])} for {shape(own[k])}" for k in other_shape]
        sentences.append(f"Of another shape: {first(pairs)}.")
    return sentences


def _reasons(own: ArchSpec, file: ArchSpec) -> list[str]:
    """The likely reason of a misfit, with the fix; empty if there is none to be seen."""
    if file.unsupported:
        return [
            f"The file's model has {' and '.join(file.unsupported)}, which this backbone has not."
        ]
    fixes = []
    stages = len(own.depths)
    if (own.depths, own.widths) != (file.depths[:stages], file.widths[:stages]) and file.depths:
        fixes.append(f"arch='{file.arch}'" if file.arch else f"arch={_arch(file)}")
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


def _arch(spec: ArchSpec) -> str:
    return f"dict(depths={spec.depths}, widths={spec.widths})"


def _adapted(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], adapt: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    tensors, notes = dict(tensors), []
    for what, names, change in (
        ("in_channels", STEM_WEIGHT, _other_channels),
        ("kernel_size", DEPTHWISE_WEIGHT, _other_kernel_size),
    ):
        if what not in adapt:
            continue
        differ = [
            k
            for k, v in tensors.items()
            if names.fullmatch(k) and k in own and v.ndim == 4 and v.shape != own[k].shape
        ]
        for key in differ:
            before, after = tensors[key], change(tensors[key], own[key])
            tensors[key] = after
        if differ:
            axis = 1 if what == "in_channels" else 3
            notes.append(f"{what} {before.shape[axis]} -> {after.shape[axis]}")
    return tensors, notes


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
