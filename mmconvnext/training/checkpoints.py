"""Checkpoints that are whole or absent: how they are written, and which one is resumed.

MMEngine writes a checkpoint in place, after it has deleted the one that it replaces: a process that
is killed meanwhile, or a full disk, leaves a part of the new one and nothing of the old one.
"""

from __future__ import annotations

import errno
import os
import re
import time
import zipfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmconvnext.errors import ConfigError, UnreadableCheckpointError, UserError
from mmconvnext.training.best_weights import SUFFIXES, write_weights

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
PART = ".part"  # ends the name of a file that is being written
ON_ERROR = ("stop", "continue")
BETWEEN = "checkpoint_between"  # what MMEngine's message hub, and a checkpoint, has its name under


@register_backend("local", force=True, prefixes="")
class WholeFileBackend(LocalBackend):
    """MMEngine's local files, written under another name, verified and then renamed."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes; a file of that name is there until all of them are on the disk.

        Raises:
            OSError: they could not be written; what was there is as before.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}{PART}")
        try:
            with part.open("wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            if bytes(obj[:2]) == b"PK" and (fault := find_fault(part)):
                raise OSError(f"it was not written as it should be: {fault}")
            part.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Have the names of a folder on the disk, too, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _RemovesLater:
    """A backend for files that keeps in mind what it is to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.outdated: list[tuple[Callable, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.outdated.append((self._backend.remove, path))

    def rmtree(self, path: str) -> None:
        self.outdated.append((self._backend.rmtree, path))


@HOOKS.register_module(name="CheckpointHook")
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's hook, which deletes an outdated checkpoint only after the new one is whole.

    Args:
        on_error: of writing a checkpoint, on a full disk for example: ``stop`` the training, or
            ``continue`` until the next one is due.
        weights: write the best checkpoint's weights as safetensors beside it, with a JSON file.
        interval_minutes: after which a checkpoint is saved between those that are due, as
            ``iter_N.pth``; the next one of any kind replaces it. 0: none.
        *args: of ``CheckpointHook``.
        **kwargs: of ``CheckpointHook``.

    Raises:
        ConfigError: ``on_error`` is unknown.
    """

    def __init__(
        self,
        *args: Any,
        on_error: str = "stop",
        weights: bool = True,
        interval_minutes: float = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weights = weights
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error={on_error!r} of CheckpointHook must be one of {ON_ERROR}")
        self.on_error = on_error
        self.interval_minutes = interval_minutes
        self._is_due = False

    def before_train(self, runner: Runner) -> None:
        """Find out where checkpoints are saved, and remove what a killed process left there."""
        super().before_train(runner)
        self._tried = time.monotonic()
        if is_main_process() and Path(self.out_dir).is_dir():
            for part in Path(self.out_dir).glob(f".*{PART}"):
                part.unlink(missing_ok=True)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights, an average of them included, that are not finite."""
        for part in ("state_dict", "ema_state_dict"):
            for name, value in checkpoint.get(part, {}).items():
                if torch.is_tensor(value) and not value.isfinite().all():
                    raise UserError(f"{name} of the weights ({part}) is not finite")

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint if one is due; by the clock the first process decides for all."""
        super().after_train_iter(runner, *args, **kwargs)
        if self._is_due:
            self._save_checkpoint(runner)
        if self.interval_minutes and runner.optim_wrapper.should_update():
            elapsed = torch.tensor([time.monotonic() - self._tried])
            broadcast(elapsed)
            if elapsed.item() >= 60 * self.interval_minutes:
                self.save_now(runner, runner.iter + 1, self.on_error)

    def save_now(self, runner: Runner, iterations: int, on_error: str = "stop") -> Path:
        """Save a checkpoint between those that are due, which the next one replaces.

        Args:
            runner: of the training.
            iterations: that were trained.
            on_error: as of this hook.

        Returns:
            Its path.
        """
        path = Path(self.out_dir, f"iter_{iterations}.pth")
        if str(path) != self.last_ckpt:  # which is of this iteration
            self._save_whole(runner, self._save_between, path, iterations, on_error=on_error)
        return path

    def _save_between(self, runner: Runner, path: Path, iterations: int) -> None:
        self._replace_between(runner)
        runner.message_hub.update_info(BETWEEN, path.name)
        runner.save_checkpoint(
            self.out_dir,
            path.name,
            meta={"epoch": runner.epoch, "iter": iterations},
            by_epoch=False,
            backend_args=self.backend_args,
        )
        self.last_ckpt = str(path)
        if is_main_process():  # where --resume looks
            Path(runner.work_dir, "last_checkpoint").write_text(str(path), encoding="utf-8")

    def _replace_between(self, runner: Runner) -> None:
        """Remove the checkpoint that :meth:`save_now` saved."""
        name = runner.message_hub.pop_info(BETWEEN)
        if name and is_main_process():
            path = Path(self.out_dir, name)
            if path.is_file():
                self.file_backend.remove(str(path))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        def save(runner: Runner) -> None:
            self._replace_between(runner)
            super(WholeCheckpointHook, self)._save_checkpoint_with_step(runner, step, meta)

        # accumulated gradients are not in a checkpoint: it waits for the step that uses them
        self._is_due = not self.by_epoch and not runner.optim_wrapper.should_update()
        if not self._is_due:
            self._save_whole(runner, save)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        before = self._best()
        self._save_whole(runner, super()._save_best_checkpoint, metrics)
        if not self.weights or not is_main_process():
            return
        for path in before - self._best():
            for suffix in SUFFIXES:
                Path(path).with_suffix(suffix).unlink(missing_ok=True)
        for path in self._best() - before:
            try:
                write_weights(Path(path), runner, metrics)
            except (UserError, OSError, ImportError) as error:  # the checkpoint has them
                runner.logger.warning("the best weights are not written as safetensors: %s", error)

    def _best(self) -> set[str]:
        """The paths of the best checkpoints, by one metric or several."""
        paths = {getattr(self, "best_ckpt_path", None)}
        return paths.union(getattr(self, "best_ckpt_path_dict", {}).values()) - {None}

    def _save_whole(
        self, runner: Runner, save: Callable, *args: Any, on_error: str | None = None
    ) -> None:
        """Save, then remove what is outdated; or leave everything as it was."""
        backend, hub = self.file_backend, runner.message_hub
        most = self.max_keep_ckpts if self.max_keep_ckpts > 0 else None
        kept = deque(getattr(self, "keep_ckpt_ids", ()), most)
        before, infos = {**vars(self), "keep_ckpt_ids": kept}, dict(hub.runtime_info)
        self.file_backend = later = _RemovesLater(backend)
        error = None
        try:
            save(runner, *args)
        except (OSError, UserError) as failure:
            error = f"{getattr(failure, 'strerror', None) or failure}"
        finally:
            self.file_backend = backend
        error = of_main_process(error)
        before["_tried"] = self._tried = time.monotonic()
        if error is None:
            for remove, path in later.outdated:
                if path not in {self.last_ckpt, *self._best()}:
                    remove(path)
            return
        vars(self).update(before)
        for key in hub.runtime_info.keys() - infos.keys():
            hub.pop_info(key)
        for key, value in infos.items():
            hub.update_info(key, value)
        message = (
            f"no checkpoint could be written to {self.out_dir}: {error}; "
            f"{_last_of(Path(self.out_dir))}"
        )
        if (on_error or self.on_error) == "stop":
            raise UserError(message)
        runner.logger.error(f"{message}; training goes on (on_error='continue')")


def of_main_process(value: Any) -> Any:
    """What the main process, which writes the files, has for a value."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def find_fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint of ``torch.save``; None where it is whole.

    All of it is read, and compared with the checksums in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"{path.name} is not whole: {error}"
    return damaged and f"{path.name} is damaged at {damaged}"


def check_writable(folder: Path) -> None:
    """Refuse a folder that is to be made, or is there, and cannot be written to, or is full.

    Raises:
        UserError: it is so.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    place = next(path for path in places if path.exists())
    try:
        with TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder}: {error.strerror}; --work-dir FOLDER names another"
        ) from None


def disk_fault(error: OSError, folder: Path) -> UserError | None:
    """What to say of an error of a disk, or of a quota, within a training; None for others."""
    if error.errno not in DISK_FAULTS:
        return None
    return UserError(
        f"{error.filename or 'a file'} cannot be written: {error.strerror}; {_last_of(folder)}"
    )


def _last_of(folder: Path) -> str:
    last, _ = newest_whole(folder)
    if last is None:
        return f"{folder} has no checkpoint yet"
    return f"the last checkpoint in {folder} is {last.name}, which --resume goes on from"


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a training, best ones apart: what ``last_checkpoint`` names, newer first.

    The path in that file is another one after the folder was moved.
    """
    files = sorted([*folder.glob("epoch_*.pth"), *folder.glob("iter_*.pth")], key=_written)[::-1]
    with suppress(FileNotFoundError):
        named = Path((folder / "last_checkpoint").read_text(encoding="utf-8").strip())
        last = [path for path in (folder / named.name, named) if path.is_file()][:1]
        return last + [path for path in files if path not in last]
    return files


def _written(path: Path) -> tuple[int, int]:
    """By when a file was written and, within a tick of the clock, by the number in its name."""
    return path.stat().st_mtime_ns, int(re.sub(r"\D", "", path.stem) or 0)


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The last checkpoint of a folder that is whole, and what is wrong with newer ones.

    Raises:
        UnreadableCheckpointError: there are some, or should be, and none is whole.
    """
    faults = []
    for path in checkpoints_of(folder):
        if not (fault := find_fault(path)):
            return path, faults
        faults.append(fault)
    if not faults and (folder / "last_checkpoint").is_file():
        faults = ["the one that last_checkpoint names is not there"]
    if faults:
        raise UnreadableCheckpointError(
            f"{folder} has no whole checkpoint: {'; '.join(faults)}. --restart starts a new run"
        )
    return None, []
