"""What is in a file of weights, and which of our configs it can be loaded for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.engine.config import drop_pretrained, load_config
from mmconvnext.errors import WeightsError
from mmconvnext.evaluation.tables import format_table
from mmconvnext.weights.detector import match_detector
from mmconvnext.weights.download import sha256_of
from mmconvnext.weights.layouts import EMA, NOT_AVERAGED, Found, extract_backbone, other_names
from mmconvnext.weights.matching import (
    CLASSIFIER,
    describe,
    explain_incomplete,
    first,
    match,
)

MIB = 2**20
WIDTH = 90
HEADS = re.compile(r"(^|\.)(roi_head|bbox_head|mask_head)\.")


@dataclass(frozen=True)
class Inspection:
    """What a file of weights is."""

    file: str
    mebibytes: float
    sha256: str
    layout: str
    kind: str  # version and variant, or depths and widths
    prefix: str  # what the backbone's names begin with
    tensors: int  # number of the backbone's, without a classifier
    parameters: int  # in them
    types: dict[str, int]  # number of tensors of each data type
    classifier: tuple[str, ...]  # names of its tensors and the final norm's
    other_parts: dict[str, int]  # number of tensors of each other part of the file
    also: tuple[str, ...]  # prefixes of further backbones, such as averaged ones
    unsupported: tuple[str, ...]  # why this backbone cannot load it; empty if it can
    configs: tuple[str, ...]  # those whose model it fills strictly


def inspect(
    path: Path, configs: Sequence[Path], prefix: str | None = None, ema: bool = False
) -> Inspection:
    """Look into a file of weights, and try which configs match, on models without memory.

    For ``prefix`` and ``ema`` see :func:`mmconvnext.weights.layouts.find_backbone`.

    Raises:
        WeightsError: it has no ConvNeXt of a known layout.
        CheckpointError: it cannot be read.
    """
    raw = read_checkpoint(path, mmap=True)
    try:
        tensors, found, converted = extract_backbone(raw, prefix, ema)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    backbone = {k: v for k, v in converted.items() if not CLASSIFIER.match(k)}
    spec = describe(backbone, found.layout.name)
    unsupported = spec.unsupported
    if not unsupported and (fault := explain_incomplete(backbone)):
        unsupported = (fault,)
    is_detector = any(map(HEADS.search, tensors))
    return Inspection(
        file=str(path),
        mebibytes=round(path.stat().st_size / MIB, 1),
        sha256=sha256_of(path),
        layout=found.layout.name,
        kind=str(spec),
        prefix=found.prefix,
        tensors=len(backbone),
        parameters=sum(v.numel() for v in backbone.values()),
        types=dict(Counter(str(v.dtype).removeprefix("torch.") for v in backbone.values())),
        classifier=tuple(sorted(converted.keys() - backbone.keys())),
        other_parts=_parts(other_names(tensors, found), found),
        also=found.also,
        unsupported=unsupported,
        configs=() if unsupported else _matching(configs, raw, backbone, is_detector),
    )


def inspection_table(inspection: Inspection) -> str:
    """Format an inspection for the terminal."""
    types, parts = (
        ", ".join(f"{name} {number}" for name, number in counts.items())
        for counts in (inspection.types, inspection.other_parts)
    )
    also = ", ".join(f"{name} ({_how_to_ask(name)})" for name in inspection.also)
    # MMEngine's EMAHook writes the averages as the detector, and what was averaged beside it.
    averaged = " (averaged by EMAHook; --ema is the same)" * any(
        map(NOT_AVERAGED.search, inspection.also)
    )
    matching, *others = inspection.configs or ("none",)
    rows = [
        ("file", f"{inspection.file} ({inspection.mebibytes} MiB)"),
        ("sha256", inspection.sha256),
        ("layout", inspection.layout),
        ("kind", inspection.kind),
        ("backbone", f"{inspection.tensors} tensors, {inspection.parameters:,} parameters"),
        ("types", types),
        ("prefix", (inspection.prefix or "none") + averaged),
        ("classifier", first(inspection.classifier) or "none"),
        ("other parts, tensors", parts or "none"),
        ("other backbones", also or "none"),
        *(
            ("not for this backbone", line)
            for text in inspection.unsupported
            for line in wrap(text, WIDTH)
        ),
        ("matching configs", matching),
        *(("", name) for name in others),
    ]
    return format_table(rows, heading=False, numbers=False)


def _how_to_ask(prefix: str) -> str:
    option = f"--prefix {prefix.removesuffix('.')}"
    if NOT_AVERAGED.search(prefix):
        return f"not averaged: {option}"
    return "--ema" if EMA.search(prefix) else option


def _parts(names: Sequence[str], found: Found) -> dict[str, int]:
    """Count tensors by their part: the name below what is around the backbone."""
    around = found.prefix.rstrip(".").rpartition(".")[0]
    parent = f"{around}." if around else ""
    return dict(Counter(name.removeprefix(parent).partition(".")[0] for name in names))


def _matching(
    configs: Sequence[Path], raw: object, backbone: Mapping[str, Tensor], is_detector: bool
) -> tuple[str, ...]:
    matches: dict[str, bool] = {}
    matching = []
    for path in configs:
        cfg = load_config(str(path))
        init_default_scope(cfg.get("default_scope", "mmdet"))
        drop_pretrained(cfg)
        settings = repr(sorted(cfg.model.backbone.to_dict().items()))
        if settings not in matches:  # many configs share a backbone
            matches[settings] = _fits_backbone(cfg, backbone)
        if matches[settings] and (not is_detector or _fits_detector(cfg, raw)):
            matching.append(path.name)
    return tuple(matching)


def _fits_backbone(cfg: Config, backbone: Mapping[str, Tensor]) -> bool:
    with torch.device("meta"):
        own = MODELS.build(cfg.model.backbone).state_dict()
    with suppress(WeightsError):
        return bool(match(own, backbone))
    return False


def _fits_detector(cfg: Config, raw: object) -> bool:
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    with suppress(WeightsError):
        source = f"{Path(cfg.filename).name}: the file"
        return bool(match_detector(model, raw, source, must_fill=True))
    return False
