"""What differs between a checkpoint that is resumed and the config, and which of them wins."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper, _ParamScheduler

from mmconvnext.compat.config_text import read_settings
from mmconvnext.errors import ConfigError

# Keys of a config -> whose values a resumed training uses.
FROM_CHECKPOINT = ("param_scheduler", "optim_wrapper.optimizer", "optim_wrapper.paramwise_cfg")
FROM_CONFIG = ("train_cfg", "train_dataloader", "optim_wrapper", "auto_scale_lr", "model")
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
    old = dict(_leaves(read_settings(text or "")))
    new = dict(_leaves(cfg.to_dict()))
    from_config = FROM_CONFIG
    from_checkpoint = FROM_CHECKPOINT
    if schedule_of_config(cfg):
        from_config, from_checkpoint = ("param_scheduler", *FROM_CONFIG), ()
    lines = []
    for keys, wins in ((from_checkpoint, "the checkpoint's"), (from_config, "the config's")):
        skipped = () if keys is from_checkpoint else from_checkpoint
        found = [
            f"{key}: {_short(old.get(key))} in the checkpoint, {_short(new.get(key))} in the config"
            for key in {**old, **new}
            if old and _below(key, keys) and not _below(key, skipped)
            if old.get(key) != new.get(key) and key.rpartition(".")[2] not in IGNORED
        ]
        if found:
            more = f", and {len(found) - SHOWN} more" * (len(found) > SHOWN)
            hint = "; --extend-schedule takes the config's" * (keys is FROM_CHECKPOINT)
            lines.append(f"resuming with {wins} {'; '.join(found[:SHOWN])}{more}{hint}")
    return lines


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
        keys = ("lr", "initial_lr", "momentum", "betas", "weight_decay")
        self.start = [{k: group[k] for k in keys if k in group} for group in self.groups]

    def replay(self, groups: Sequence[dict], epochs: int, iterations: int) -> None:
        """Take all steps of a training up to a place, in its order.

        Args:
            groups: of the optimizer, after the checkpoint was loaded.
            epochs: that were trained.
            iterations: that were trained.
        """
        for group, start in zip(groups, self.start, strict=True):
            group.update(start)
        length = iterations // epochs if epochs else iterations + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimizer is between them
            for iteration in range(1, iterations + 1):
                for scheduler in self.schedulers:
                    if not scheduler.by_epoch or iteration % length == 0:
                        scheduler.step()
