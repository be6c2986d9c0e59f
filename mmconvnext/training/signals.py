"""Ending a training early, by a signal or after a time (``--time 30m``), with a checkpoint."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmconvnext.errors import ConfigError
from mmconvnext.training.checkpoints import WholeCheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
STOPPED = 75  # the exit code after a signal; EX_TEMPFAIL of sysexits.h: to be tried again
AT_ONCE = 2.0  # seconds in which several signals are one: slurm and torchrun both pass it on
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The training ends here; the message says how far it came, ``code`` is that of the process."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


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


class StopHook(Hook):
    """Saves a checkpoint and raises :class:`Stopped` after a signal, or when the time is up.

    All processes do so after the same step, whichever of them got the signal. The schedule stays as
    it is: ``--resume`` goes on with it.

    Args:
        seconds: how long the training may take, validation included; None: to its end.
        command: that goes on, for the message.
    """

    priority = "LOWEST"  # after all that others do at the end of an iteration

    def __init__(self, seconds: float | None = None, command: str = "--resume") -> None:
        self.seconds = seconds
        self.command = command
        self._start = time.monotonic()
        self._signal, self._at = 0, 0.0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take signals for the time of a training: the second one ends the process at once."""
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._at = number, time.monotonic()
            # a print may have been interrupted, which cannot be called again within itself
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this step\n".encode())
        elif time.monotonic() - self._at > AT_ONCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def left(self) -> float:
        """Seconds of the time that the training may take."""
        spent = time.monotonic() - self._start
        return math.inf if self.seconds is None else max(self.seconds - spent, 0.0)

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def before_val_epoch(self, runner: Runner) -> None:
        """Count the batches that all processes have: after others they do not meet."""
        self._batches = min(all_gather_object(len(runner.val_dataloader)))

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Look at the clock and for signals, where no accumulated gradients would be lost."""
        done = runner.iter + 1
        if done < runner.max_iters and runner.optim_wrapper.should_update():
            self._stop_if_any(runner, done, not self.left)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Look for signals; a validation that the time ends within goes on."""
        if batch_idx < self._batches:
            self._stop_if_any(runner, runner.iter, False, self._end_validation)

    @staticmethod
    def _end_validation(runner: Runner) -> None:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # puts the model's own weights back
                hook.after_val_epoch(runner)

    def _stop_if_any(
        self,
        runner: Runner,
        done: int,
        is_up: bool,
        prepare: Callable[[Runner], None] = lambda runner: None,
    ) -> None:
        reasons = torch.tensor([self._signal, is_up])
        all_reduce(reasons, "max")
        number, is_up = reasons.tolist()
        if not number and not is_up:
            return
        prepare(runner)
        path = checkpoint_hook(runner).save_now(runner, done)
        why = f"stopped by {signal.Signals(number).name}" if number else "--time"
        over = "" if number else f": {self.seconds:g} s are over"
        epoch = f", in epoch {runner.epoch + 1} of {runner.max_epochs}" * (runner.max_epochs > 1)
        raise Stopped(
            f"{why}{over} after {done} of {runner.max_iters} iterations{epoch}; saved {path}. The "
            f"learning rate was that of the whole schedule. To go on: {self.command}",
            STOPPED if number else 0,
        )


def checkpoint_hook(runner: Runner) -> WholeCheckpointHook:
    """The one of a training, or one for a training that saves no checkpoints otherwise."""
    for hook in runner.hooks:
        if isinstance(hook, WholeCheckpointHook):
            return hook
    hook = WholeCheckpointHook()
    hook.before_train(runner)
    return hook


def shield_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Begin a data loader's process so that it outlives signals to all processes of a training.

    The training needs it until its step is done, and ends it then. It also ends by itself, as
    torch has it, when the training is gone.

    Args:
        init: what the data loader's processes begin with otherwise.
        worker: the number of this one.
    """
    os.setpgid(0, 0)  # torchrun and terminals signal whole groups
    for number in {*SIGNALS} - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        # A handler would not be called within a call of C that does not return.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_leave_when_told, args=(os.getppid(),), daemon=True).start()
    if init:
        init(worker)


def _leave_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
