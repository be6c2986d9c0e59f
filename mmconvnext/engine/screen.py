"""What a run shows on the screen; all else that is logged is in its log file alone."""

from __future__ import annotations

import logging
import resource
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmconvnext.evaluation.tables import ap_table
from mmconvnext.training.checkpoints import checkpoints_of
from mmconvnext.training.signals import StopHook

# Who tells nothing that is not in the summary, the progress or the tables, but for warnings.
QUIET = ("mmengine", "mmdet", "mmcv", "mmconvnext.optim", "mmconvnext.evaluation.coco_metric")
# Whose warnings no user can do anything about: of the names that MMEngine's own hooks use.
SILENT = ("mmengine.fileio",)
FIRST_S = 15.0  # after which a run says what it does, whatever an iteration takes
EVERY_S = 30.0  # between lines of progress where they are not replaced
REPLACED_S = 0.5  # between them in a terminal


class ScreenFilter(logging.Filter):
    """Lets pass what is said to users: warnings, and what neither MMEngine nor MMDetection say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide by the module that logs, on whose call stack this is."""
        frame = sys._getframe(1)
        while frame.f_back and _is_in(frame.f_globals["__name__"], ("logging", "mmengine.logging")):
            frame = frame.f_back
        quiet = QUIET if record.levelno < logging.WARNING else SILENT
        return not _is_in(frame.f_globals["__name__"], quiet)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def filter_screen(logger: logging.Logger) -> None:
    """Filter what a logger shows, not what it writes to files.

    Lines that a full disk does not take are left out, without a traceback each.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = lambda record: None
        filtered = any(isinstance(each, ScreenFilter) for each in handler.filters)
        if not isinstance(handler, logging.FileHandler) and not filtered:
            handler.addFilter(ScreenFilter())


@contextmanager
def quiet() -> Iterator[None]:
    """Without pycocotools' lines on the reading of a file whose name they do not say."""
    with redirect_stdout(StringIO()):
        yield


class ScreenHook(Hook):
    """Progress with losses, learning rate, speed, memory and time left; AP; what to do at the end.

    In a terminal the line of progress is replaced, else there is one each half minute; the first
    comes after 15 s, even within an iteration.
    """

    priority = "VERY_LOW"  # after what others compute at the end of an iteration

    def __init__(self) -> None:
        self._replaced = sys.stderr.isatty()
        self._shown_at = 0.0
        self._started = 0.0
        self._timer: threading.Timer | None = None

    def before_train(self, runner: Runner) -> None:
        """Say how many images are trained on, and start the clock of the first line."""
        images = len(runner.train_dataloader.dataset)
        runner.logger.info("an epoch has %d images, those that filter_cfg leaves", images)
        self._start(lambda: f"iteration {runner.iter + 1} of {runner.max_iters}")

    def before_val_epoch(self, runner: Runner) -> None:
        """Start the clock of the first line."""
        self._start(lambda: "validation")

    def before_test_epoch(self, runner: Runner) -> None:
        """Start the clock of the first line."""
        self._start(lambda: "test")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how far the training is."""
        done, total = runner.iter + 1, runner.max_iters
        if not self._is_due(done == total):
            return
        hub = runner.message_hub
        values = {
            name.removeprefix("train/"): buffer.mean(50)
            for name, buffer in hub.log_scalars.items()
            if name.startswith("train/") and "loss" in name
        }
        seconds = hub.get_scalar("train/time").mean(50)
        images = len(data_batch["inputs"]) * get_world_size()
        rates = runner.optim_wrapper.get_lr()["lr"]
        epoch = f" epoch {runner.epoch + 1}/{runner.max_epochs}" * (runner.max_epochs > 1)
        losses = " ".join(f"{name} {value:.3g}" for name, value in values.items())
        stops = [hook.left for hook in runner.hooks if isinstance(hook, StopHook)]  # --time
        left = min([hub.get_info("eta"), *stops])
        self._show(
            f"iteration {done}/{total}{epoch} | {losses} | lr {max(rates):.3g} | "
            f"{images / max(seconds, 1e-9):.3g} images/s | {memory()} | "
            f"{_duration(left)} left",
            done == total,
        )

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Show how far the validation is."""
        self._evaluated("validation", batch_idx + 1, runner.val_dataloader)

    def after_test_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Show how far the test is."""
        self._evaluated("test", batch_idx + 1, runner.test_dataloader)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Show the AP and the loss."""
        if not metrics or not is_main_process():
            return
        print(ap_table(metrics), flush=True)
        training = runner.message_hub.log_scalars.get("train/loss")
        if "val/loss" in metrics and training:
            losses = f"{metrics['val/loss']:.4g} on the validation set, {training.mean(50):.4g} in"
            print(f"loss: {losses} training (mean of the last 50 iterations)", flush=True)

    def after_train(self, runner: Runner) -> None:
        """Say what came out, where it is and what can be done with it."""
        if not is_main_process():
            return
        self._cancel()
        folder = Path(runner.work_dir)
        hub = runner.message_hub
        best, checkpoint = (hub.runtime_info.get(f"best_{key}") for key in ("score", "ckpt"))
        lines = [f"in {folder}: checkpoints, config and, in {Path(runner.log_dir).name}, the log"]
        if getattr(runner.train_loop, "stop_training", False):
            lines.insert(0, f"stopped early, after {runner.iter} of {runner.max_iters} iterations")
        if best is not None:
            key = _key(runner)
            value = f"{100 * best:.1f} (0-100)" if "mAP" in key else f"{best:.4g}"
            lines.insert(0, f"best {key}: {value}, {checkpoint}")
        if checkpoint := checkpoint or next(iter(checkpoints_of(folder)), None):
            # the config as it was used, with --dataset, --backbone and --cfg-options
            config = folder / Path(runner.cfg.filename).name
            commands = ("test", config, checkpoint), ("report", folder), ("predict", folder)
            lines.append("next:")
            lines += [f"  {shlex.join(['mmconvnext', *map(str, each)])}" for each in commands]
            lines[-1] += " PICTURES"
        print("\n".join(lines), flush=True)

    def _evaluated(self, what: str, done: int, loader: Any) -> None:
        last = done == len(loader)
        if self._is_due(last):
            passed = time.monotonic() - self._started
            left = passed / done * (len(loader) - done)
            line = f"{what} {done}/{len(loader)} | {done / max(passed, 1e-9):.3g} batches/s | "
            self._show(f"{line}{memory()} | {_duration(left)} left", last)

    def _start(self, what: Callable[[], str]) -> None:
        self._cancel()
        self._started = self._shown_at = time.monotonic()
        self._shown_at -= EVERY_S - FIRST_S
        if is_main_process():
            running = f"running for {FIRST_S:.0f} s: "
            self._timer = threading.Timer(FIRST_S, lambda: self._show(running + what(), True))
            self._timer.daemon = True
            self._timer.start()

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _is_due(self, last: bool) -> bool:
        interval = REPLACED_S if self._replaced else EVERY_S
        return is_main_process() and (last or time.monotonic() - self._shown_at >= interval)

    def _show(self, line: str, last: bool) -> None:
        self._cancel()
        self._shown_at = time.monotonic()
        start, end = ("\r\033[K", "\n" if last else "") if self._replaced else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


def _key(runner: Runner) -> str:
    hooks = [hook for hook in runner.hooks if getattr(hook, "save_best", None)]
    return hooks[0].key_indicators[0] if hooks else "score"


def memory() -> str:
    """The most that was taken so far: of the GPU, or of this process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def summary(runner: Runner, files: list[dict[str, Any]]) -> list[str]:
    """What is trained, on what and with what, in a few lines.

    Args:
        runner: built, not started.
        files: what the data checks found, of each annotation file.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    backbone = getattr(model, "backbone", None)
    lines = [
        f"training {type(model).__name__} with {type(backbone).__name__}: {trained / 1e6:.1f} M "
        f"parameters trained, {frozen / 1e6:.1f} M frozen",
        *(
            f"on {each['file']}: {each['images']} images, {each['objects']} objects of "
            f"{len(each['classes'])} classes"
            + f", {each['repaired_objects']} repaired or left out"
            * bool(each["repaired_objects"])
            for each in {each["file"]: each for each in files}.values()
        ),
    ]
    cfg, processes = runner.cfg, get_world_size()
    batch = cfg.train_dataloader.get("batch_size")
    accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
    epochs = cfg.train_cfg.get("max_epochs")
    length = f"{epochs} epochs" if epochs else f"{cfg.train_cfg.max_iters} iterations"
    optimizer = cfg.optim_wrapper.optimizer
    device, precision = parameters[0].device.type, cfg.optim_wrapper.get("type", "OptimWrapper")
    lines.append(
        f"with {batch} images x {processes} processes x {accumulated} accumulated = "
        f"{batch * processes * accumulated} an update; {length}; {optimizer.type}, lr "
        f"{optimizer.get('lr', 'of its own')}; {precision} on {device}"
    )
    return [*lines, f"into {runner.work_dir}; the log with everything: {runner.log_dir}"]
