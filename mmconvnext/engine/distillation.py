"""The teacher of a config: found, checked against the student, and put to work.

``teacher = dict(config=..., checkpoint=..., feature=..., logits=...)`` at the top level of a
training's config; ``configs/_base_/distillation.py`` has the published losses. The model of the
config is the student alone, for every other command.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data.prepare import training_classes
from mmconvnext.engine.config import drop_pretrained, load_config, replace_types
from mmconvnext.engine.device import convolutions_to_channels_last
from mmconvnext.engine.run_dir import find_detector
from mmconvnext.errors import ConfigError
from mmconvnext.models.distillation import Teacher, distil, stages_of
from mmconvnext.weights.detector import classes_of, load_matched, match_detector, unwrapped
from mmconvnext.weights.sources import fetch_first

KEYS = ("config", "checkpoint", "feature", "logits")


class Found(NamedTuple):
    """A teacher that is not built yet: its config, its checkpoint and that one's name."""

    cfg: Config
    path: Path
    source: str


def find_teacher(cfg: Config) -> Found | None:
    """Find the teacher that a training's config names; None if it has none.

    Raises:
        UserError: the settings are wrong, or its config or checkpoint is not there.
    """
    given = cfg.get("teacher")
    if not given:
        return None
    if not isinstance(given, Mapping) or (unknown := [key for key in given if key not in KEYS]):
        what = f"no {unknown[0]!r}" if isinstance(given, Mapping) else f"not {given!r}"
        raise ConfigError(f"teacher of {cfg.filename} takes {', '.join(KEYS)}, and {what}")
    if not (given.get("feature") or given.get("logits")):
        raise ConfigError(
            f"teacher of {cfg.filename} has neither feature nor logits: what is to be learned from "
            'it? _base_ = [..., "mmconvnext::_base_/distillation.py"] has the published losses'
        )
    name, sources = given.get("config"), given.get("checkpoint")
    if not name or not (sources or Path(name).is_dir()):
        what = (
            f"checkpoint is missing, and {name} is no work folder" if name else "config is missing"
        )
        raise ConfigError(
            f"{cfg.filename}: teacher.{what}: name the teacher's config and checkpoint, or its "
            "work folder alone: --cfg-options teacher.config=CONFIG teacher.checkpoint=FILE"
        )
    if cfg.get("global_losses"):
        raise ConfigError(
            "global_losses with a teacher: features are compared by the means of each process's "
            "own images; leave out global_losses, or teacher"
        )
    if Path(name).is_dir():
        name, sources = find_detector(name, sources)
    source, path = fetch_first(sources)
    return Found(load_config(name), path, source)


def teach(model: nn.Module, cfg: Config, found: Found) -> str:
    """Build and load the teacher, check that it fits, and let the model learn from it.

    Args:
        model: the student, on its device, maybe wrapped.
        cfg: of its training, whose data sets know their classes.
        found: of :func:`find_teacher`.

    Returns:
        A line for the log.

    Raises:
        UserError: the checkpoint is not the config's, or the teacher does not fit the student.
    """
    student, given = unwrapped(model), cfg.teacher
    init_default_scope(cfg.get("default_scope", "mmdet"))
    drop_pretrained(found.cfg)
    replace_types(found.cfg, ("SyncBN", "MMSyncBN"), "BN")  # the same in evaluation
    # The student's random numbers are those that it would have alone.
    with torch.random.fork_rng(devices=[]):
        teacher = MODELS.build(found.cfg.model)
        losses = [
            MODELS.build(given[key]) if given.get(key) else None for key in ("feature", "logits")
        ]
    checkpoint = read_checkpoint(found.path, mmap=True)
    load_matched(teacher, *match_detector(teacher, checkpoint, found.source, must_fill=True))
    _check_pictures(student, teacher)
    own, other = stages_of(student), stages_of(teacher)
    if given.get("feature"):
        _check_features(own[0][0], other[0][0])
    if given.get("logits"):
        classes = classes_of(checkpoint) or training_classes(found.cfg)
        _check_classes(training_classes(cfg), classes)
        _check_heads([head for _, head in own], [head for _, head in other])
    convolutions_to_channels_last(teacher)
    distil(student, Teacher(teacher.to(next(student.parameters()).device), *losses))
    count = sum(parameter.numel() for parameter in teacher.parameters()) / 1e6
    names = " and ".join(type(loss).__name__ for loss in losses if loss)
    return f"teacher: {Path(found.cfg.filename).name} ({count:.1f} M parameters), {names}"


def _check_pictures(student: nn.Module, teacher: nn.Module) -> None:
    own, other = map(_pixels, (student, teacher))
    if own != other:
        raise ConfigError(
            f"the teacher has the student's pictures, and was trained on others: (mean, std, RGB) "
            f"of its data_preprocessor are {other}, the student's {own}; give the student the same"
        )


def _pixels(model: nn.Module) -> tuple[Any, ...]:
    preprocessor = model.data_preprocessor
    numbers = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    lists = (
        each if each is None else [round(v, 3) for v in each.flatten().tolist()] for each in numbers
    )
    return (*lists, getattr(preprocessor, "_channel_conversion", None))


def _check_features(student: nn.Module, teacher: nn.Module) -> None:
    own, other = ((e.out_channels, list(e.featmap_strides)) for e in (student, teacher))
    if own != other:
        raise ConfigError(
            f"teacher.feature compares features channel by channel: the student's have {own[0]} "
            f"channels at strides {own[1]}, the teacher's {other[0]} at {other[1]}; give both the "
            "same neck, or learn from logits alone: --cfg-options teacher.feature=None"
        )


def _check_classes(own: tuple[str, ...] | None, other: tuple[str, ...] | None) -> None:
    if own and other and [*own] != [*other]:
        missing = [name for name in own if name not in other]
        what = f"the teacher does not know {missing[0]!r}" if missing else "theirs differ"
        raise ConfigError(
            f"teacher.logits needs the same classes in the same order, and {what}: the student has "
            f"{len(own)} ({', '.join(own[:3])}, ...), the teacher {len(other)} "
            f"({', '.join(other[:3])}, ...); train the teacher on the same data, or learn from "
            "features alone: --cfg-options teacher.logits=None"
        )


def _check_heads(own: list[nn.Module], other: list[nn.Module]) -> None:
    fault = None
    if len(own) > len(other):
        fault = f"the student has {len(own)} stages, the teacher {len(other)}"
    for head in (*own, *other):
        if not isinstance(head, ConvFCBBoxHead) or head.loss_cls.use_sigmoid:
            fault = f"{type(head).__name__} gives no logits for a softmax of all classes"
    counts = [heads[0].num_classes for heads in (own, other)]
    if counts[0] != counts[1]:
        fault = f"the student's head has {counts[0]} classes, the teacher's {counts[1]}"
    if fault:
        raise ConfigError(
            f"teacher.logits: {fault}; learn from features alone: --cfg-options teacher.logits=None"
        )
