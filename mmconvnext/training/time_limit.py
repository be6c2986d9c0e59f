"""Ending a training after a given time (``--time 30m``), with a checkpoint to go on from."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmconvnext.errors import ConfigError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class TimeIsUp(Exception):  # noqa: N818 (it is no error)
    """The training ends here; the message says how far it came."""


def read_time(text: str) -> float:
    """Seconds of a time such as ``90s``, ``30m`` or ``1h30m``.

    Raises:
        ConfigError: it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds:
        raise ConfigError(f"--time {text}: it must be a time such as 90s, 30m, 2h or 1h30m")
    return seconds


class TimeLimitHook(Hook):
    """Saves a checkpoint and raises :class:`TimeIsUp` when a training has taken its time.

    The schedule stays as it is: ``--resume`` goes on with it.

    Args:
        seconds: how long the training may take, validation included.
    """

    priority = "LOWEST"  # after all that others do at the end of an iteration

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Look at the clock; the first process decides for all."""
        done = runner.iter + 1
        is_up = torch.tensor([time.monotonic() - self._start >= self.seconds])
        broadcast(is_up)
        if done >= runner.max_iters or not is_up.item():
            return
        path = Path(runner.work_dir, f"iter_{done}.pth")
        runner.save_checkpoint(runner.work_dir, path.name, by_epoch=False)
        if is_main_process():  # where --resume looks
            Path(runner.work_dir, "last_checkpoint").write_text(str(path), encoding="utf-8")
        epoch = f", in epoch {runner.epoch + 1} of {runner.max_epochs}" * (runner.max_epochs > 1)
        raise TimeIsUp(
            f"--time: {self.seconds:g} s are over after {done} of {runner.max_iters} iterations"
            f"{epoch}; saved {path}. The learning rate was that of the whole schedule; --resume "
            f"goes on{', with this epoch from its start' if epoch else ''}"
        )
