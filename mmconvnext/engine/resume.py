"""What differs between a checkpoint that is resumed and the config, and which of them wins."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmdet
import mmengine
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner

import mmconvnext
from mmconvnext.compat.config_text import read_settings
from mmconvnext.engine.provenance import git_revision
from mmconvnext.errors import ConfigError
from mmconvnext.training.exact import ExactLoop

# Keys of a config -> whose values a resumed training uses.
FROM_CHECKPOINT = (
    "param_scheduler",
    "optim_wrapper.optimizer",
    "optim_wrapper.paramwise_cfg",
    "auto_scale_lr",
)
FROM_CONFIG = ("train_cfg", "train_dataloader", "optim_wrapper", "model", "teacher")
# Says nothing of the training.
IGNORED = ("num_workers", "persistent_workers", "pin_memory", "init_cfg", "palette", "_scope_")
SHOWN = 6
CHOICES = ("checkpoint", "config")


def schedule_of_config(cfg: Config) -> bool:
    """Whether a resumed training goes by the config's schedule (``resume_schedule``).

    Raises:
        ConfigError: it has another value.
    """
    choice = cfg.get("resume_schedule", "checkpoint")
    if choice not in CHOICES:
        raise ConfigError(f"resume_schedule={choice!r} is unknown; choose of {', '.join(CHOICES)}")
    return choice == "config"


def explain_differences(text: str | None, cfg: Config) -> list[str]:
    """Say what a checkpoint's config has otherwise than the config, a line for each that wins.

    Args:
        text: the checkpoint's config, which is read and not run; None if it has none.
        cfg: of the training that resumes.
    """
    old = dict(_leaves(read_settings(text) or {}))
    new = dict(_leaves(cfg.to_dict()))
    if not old:
        return ["resuming: the checkpoint has no config that could be compared with this one"]
    from_config = FROM_CONFIG
    from_checkpoint = FROM_CHECKPOINT
    if schedule_of_config(cfg):
        from_config, from_checkpoint = (*FROM_CHECKPOINT, *FROM_CONFIG), ()
    _check_types(old, new, schedules=bool(from_checkpoint))
    lines = []
    for keys, wins in ((from_checkpoint, "the checkpoint's"), (from_config, "the config's")):
        skipped = () if keys is from_checkpoint else from_checkpoint
        found = [
            f"{key}: {_short(old.get(key))} in the checkpoint, {_short(new.get(key))} in the config"
            for key in {**old, **new}
            if _below(key, keys) and not _below(key, skipped)
            if old.get(key) != new.get(key) and set(IGNORED).isdisjoint(key.split("."))
        ]
        if found:
            more = f", and {len(found) - SHOWN} more" * (len(found) > SHOWN)
            hint = "; --extend-schedule takes the config's" * (keys is FROM_CHECKPOINT)
            lines.append(f"resuming with {wins} {'; '.join(found[:SHOWN])}{more}{hint}")
    return lines


def origin(dataset: Any) -> dict[str, Any]:
    """What a training must share with the one that it resumes, beside settings, to be exact."""
    return {
        "number of processes": get_world_size(),
        "number of images": len(dataset),
        "checksum of the annotations": _checksum(dataset),
        "device": get_device(),
        "code": f"mmconvnext {mmconvnext.__version__}, {git_revision()}",
        "version of torch, MMEngine or MMDetection": f"{torch.__version__}, "
        f"{mmengine.__version__}, {mmdet.__version__}",
    }


def _checksum(dataset: Any, value: int = 0) -> int:
    """A checksum of what MMEngine's data sets have read, those in others too."""
    for each in getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]:
        if each is not None:
            value = _checksum(each, value)
    return zlib.crc32(getattr(dataset, "data_bytes", b""), value)


def log_differences(runner: Runner, meta: Mapping[str, Any]) -> None:
    """Say what differs in a training that is resumed, where it starts, and whether exactly.

    Args:
        runner: of the training.
        meta: of the checkpoint.
    """
    loop, cfg = runner.train_loop, runner.cfg
    lines = explain_differences(meta.get("cfg"), cfg)
    where = f"from epoch {meta.get('epoch', 0) + 1}, iteration {meta.get('iter', 0) + 1} on"
    if isinstance(loop, ExactLoop) and "place" in meta:
        old, place = meta["origin"], meta["place"]
        lines += [
            f"resuming with another {name}: {old.get(name)} in the checkpoint, {value} now"
            for name, value in origin(loop.dataloader.dataset).items()
            if old.get(name) != value
        ]
        for name in sorted({*re.findall(r"Cached\w+", str(cfg.get("train_dataloader")))}):
            lines.append(f"{name} starts without the images that it had kept")
        where += f", after {place['batch']} batches of pass {place['pass'] + 1} through the data"
        where += f", with the checkpoint's seed, {meta['seed']}"
    elif isinstance(loop, ExactLoop):
        lines.append("the checkpoint does not say which data of the epoch were trained on")
    for line in lines:
        runner.logger.warning(line)
    if isinstance(loop, ExactLoop):
        runner.logger.info(f"resuming {'not exactly' if lines else 'exactly'}, {where}")


def _check_types(old: Mapping[str, Any], new: Mapping[str, Any], schedules: bool) -> None:
    """Refuse another optimizer and, where the checkpoint's are to be used, other schedules.

    MMEngine would load the state of one into another, in part.

    Raises:
        ConfigError: they are of other types.
    """
    key = "optim_wrapper.optimizer.type"
    if old.get(key) != new.get(key):
        raise ConfigError(
            f"--resume: {key} is {old.get(key)!r} in the checkpoint and {new.get(key)!r} in the "
            "config, which cannot use the other's state; to start a new training from the "
            "weights: --cfg-options load_from=FILE, without --resume"
        )
    types = [
        [v for k, v in each.items() if k.startswith("param_scheduler.") and k.endswith(".type")]
        for each in (old, new)
    ]
    if schedules and types[0] != types[1]:
        raise ConfigError(
            f"--resume: param_scheduler has {types[0]} in the checkpoint and {types[1]} in the "
            "config, which cannot use the others' state: give the same, or --extend-schedule"
        )


def _below(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; pipelines and lists of numbers are one value."""
    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        items = iter(enumerate(value))
    if items is None or name.endswith(".pipeline"):
        yield name, list(value) if isinstance(value, tuple) else value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))


class FreshSchedule:
    """The learning rates and schedules of the config, to be brought to the checkpoint's place."""

    def __init__(self, optim_wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler]) -> None:
        self.groups = optim_wrapper.param_groups
        self.schedulers = schedulers
        self.start = [{k: v for k, v in g.items() if k != "params"} for g in self.groups]

    def replay(self, groups: Sequence[dict], epochs: int, iterations: int) -> None:
        """Take all steps of a training up to a place, in its order.

        Args:
            groups: of the optimizer, after the checkpoint was loaded.
            epochs: that were trained.
            iterations: that were trained.
        """
        for group, start in zip(groups, self.start, strict=True):
            group.update(start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimizer is between them
            for iteration in range(1, iterations + 1):
                for scheduler in self.schedulers:
                    # the epochs spread evenly, whatever the batch size was in each
                    ends = iteration * epochs // iterations > (iteration - 1) * epochs // iterations
                    if not scheduler.by_epoch or ends:
                        scheduler.step()
