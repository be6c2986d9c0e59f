"""Data that goes wrong while a detector is trained: pictures, drives and processes that load them.

The check of the data came before: of a picture that changes or vanishes, of a drive that does not
answer and of a process that the system kills it knows nothing.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from mmconvnext.data.pictures import read_picture
from mmconvnext.errors import DataError, UserError
from mmconvnext.training.checkpoints import newest_whole
from mmconvnext.training.signals import checkpoint_hook

TIMEOUT_S = 300  # for a batch; after it the processes that load are stalled
WAITS_S = (0.1, 1.0, 10.0)  # before a picture is read again
IN_A_ROW = 5  # pictures that cannot be read: the drive is to blame
AT_LEAST = 10  # pictures may be replaced, however few the data set has
NAMED = 5  # files in a message
REPLACED = "replaced_pictures.jsonl"  # in the folder of the log


class LoadingError(DataError):
    """The data of a data loader cannot be loaded any more; what it was asked for is whole."""

    def __init__(self, message: str, loader: DataLoader) -> None:
        super().__init__(message)
        self.loader = loader


class SafeLoading:
    """Loads the pictures of a data set: reads again, and replaces one that stays unreadable.

    A picture that changed since the start is looked at, too. Which one replaces another follows
    from the seed and its index alone.

    Args:
        dataset: of MMEngine, with no other data set in it.
        workers: processes that load.
        seed: of the replacements.
        log: a file for a line of JSON on each replacement, of all processes.
        limit: pictures that may be replaced; None for a test, where none may be left out.

    Raises:
        DataError: a picture cannot be read and must not be replaced.
    """

    def __init__(
        self, dataset: BaseDataset, workers: int, seed: int, log: Path, limit: int | None
    ) -> None:
        self.dataset, self.seed, self.log, self.limit = dataset, seed, log, limit
        self._started = time.time()
        # of each process that loads, what it is at and since when, for the main process to see
        self._at = torch.full((max(workers, 1), 2), -1.0, dtype=torch.float64).share_memory_()

    def __call__(self, index: int) -> Any:
        """Load and augment a picture, or the one that replaces it."""
        random = np.random.default_rng((self.seed, index))
        for _ in range(IN_A_ROW):
            try:
                return self._read_patiently(index)
            except Exception as error:
                if not _is_of_reading(error):
                    raise
                path, fault = self._path(index), f"{type(error).__name__}: {error}"
                if self.limit is None:
                    raise DataError(
                        f"the picture {path} cannot be read ({fault}), and a test must not leave "
                        "it out"
                    ) from error
            index = int(random.integers(len(self.dataset)))
            self._note(path, fault, self._path(index))
        raise DataError(
            f"{IN_A_ROW} pictures in a row cannot be read, the last one {path}: {fault}"
        )

    def reading(self) -> list[tuple[float, str]]:
        """For how many seconds processes have been at pictures, and at which; the longest first."""
        now = time.time()
        at = [(now - since, self._path(int(index))) for index, since in self._at if index >= 0]
        return sorted(at, reverse=True)

    def _read_patiently(self, index: int) -> Any:
        for wait in WAITS_S:
            try:
                return self._read(index)
            except Exception as error:
                if not _is_of_reading(error):
                    raise
            time.sleep(wait)
        return self._read(index)

    def _read(self, index: int) -> Any:
        worker = get_worker_info()
        at = self._at[worker.id if worker else 0]
        at[1], at[0] = time.time(), index
        info = self.dataset.get_data_info(index)
        self._check_changed(info)
        loaded = self.dataset.pipeline(info)
        at[0] = -1
        return loaded

    def _check_changed(self, info: dict[str, Any]) -> None:
        """Look at a picture that changed since the start, by its header; OSError if it is bad."""
        path = Path(info.get("img_path", ""))
        if not path.is_file() or path.stat().st_ctime <= self._started:
            return
        picture, size = read_picture(path), (info.get("width"), info.get("height"))
        if picture.fault or (None not in size and size not in (picture.stored, picture.loaded)):
            raise OSError(picture.fault or f"has {picture.stored} pixels, not {size} any more")

    def _path(self, index: int) -> str:
        return str(self.dataset.get_data_info(index).get("img_path", f"number {index}"))

    def _note(self, path: str, fault: str, other: str) -> None:
        """Write a replacement down, or raise DataError where there were too many."""
        line = {"picture": path, "fault": fault, "replaced_by": other, "rank": get_rank()}
        with self.log.open("a", encoding="utf-8") as file:  # one short write for all processes
            file.write(f"{json.dumps(line)}\n")
        lines = self.log.read_text(encoding="utf-8").splitlines()
        pictures = list(dict.fromkeys(json.loads(each)["picture"] for each in lines))
        if len(pictures) > self.limit:
            raise DataError(
                f"{len(pictures)} of {len(self.dataset)} pictures cannot be read, more than the "
                f"{self.limit} that max_replaced_pictures lets be replaced: "
                f"{', '.join(pictures[:NAMED])}, ...; all are in {self.log}"
            )
        print_log(f"{path} cannot be read ({fault}); {other} replaces it", "current", 30)


def _is_of_reading(error: Exception) -> bool:
    """Whether a file could not be read or decoded; mistakes in transforms are raised at once."""
    names = (frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, OSError) or any(n.endswith("transforms.loading") for n in names)


def leaves(dataset: Any) -> Iterator[BaseDataset]:
    """The data sets of MMEngine's that load pictures, in wrappers or not."""
    for each in getattr(dataset, "datasets", [getattr(dataset, "dataset", None)]):
        if each is not None:
            yield from leaves(each)
    if getattr(type(dataset), "prepare_data", None) is BaseDataset.prepare_data:
        yield dataset


def load_safely(loader: DataLoader, seed: int, folder: Path, share: float | None) -> None:
    """Let a data loader that has not begun read again and, in a training, replace pictures.

    Args:
        loader: of a runner.
        seed: of the replacements.
        folder: of the log.
        share: of each data set's pictures that may be replaced; None for none, as in a test.
    """
    for leaf in leaves(loader.dataset):
        limit = share and max(AT_LEAST, int(share * len(leaf)))
        leaf.prepare_data = SafeLoading(leaf, loader.num_workers, seed, folder / REPLACED, limit)


class WatchedLoader(DataLoader):
    """torch's data loader, which says what happened to the processes that load.

    They are started with the first batch, not with ``iter``. That one of them died is raised where
    a batch is waited for, not in the middle of a step.

    Raises:
        LoadingError: one died, is stalled, or cannot load its pictures.
    """

    def __iter__(self) -> Iterator[Any]:
        """Load the batches."""
        iterator = super().__iter__()
        while True:
            try:
                with _deaths_raised():
                    batch = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, DataError) as error:
                if (text := self._explain(error)) is None:
                    raise
                raise LoadingError(text, self) from error
            yield batch

    def _explain(self, error: Exception) -> str | None:
        if isinstance(error, DataError):  # in a process of its own, with all of its traceback
            return str(error).rpartition("DataError: ")[2].strip()
        text = str(error)
        if "DataLoader timed out" in text:
            text = f"no batch was loaded in {self.timeout:g} s (train_dataloader.timeout)"
        elif "DataLoader worker" not in text:
            return None
        else:
            text = f"a process that loads data died ({text.splitlines()[0].strip()})"
            text += "; the system kills one where memory is short: fewer num_workers need less"
        safe = [leaf.prepare_data for leaf in leaves(self.dataset)]
        reading = [at for each in safe if isinstance(each, SafeLoading) for at in each.reading()]
        files = [f"{path} (for {seconds:.0f} s)" for seconds, path in sorted(reading)[::-1]]
        return f"{text}. Being read then: {', '.join(files[:NAMED]) or 'nothing'}"


def watch(loader: DataLoader) -> None:
    """Make torch's data loader a :class:`WatchedLoader`, with a time in which a batch must come."""
    if type(loader) is DataLoader:
        loader.__class__ = WatchedLoader
        loader.timeout = loader.timeout or TIMEOUT_S * (loader.num_workers > 0)


def stopped(error: LoadingError, runner: Runner) -> UserError:
    """What to say of a training whose data cannot be loaded, with a checkpoint that is saved."""
    path, _ = newest_whole(Path(runner.work_dir))
    if error.loader is runner.train_loop.dataloader and runner.iter and runner.world_size == 1:
        path = checkpoint_hook(runner).save_now(runner, runner.iter)
    return UserError(f"{error}. The training stops; --resume goes on from {path or 'its start'}")


@contextmanager
def _deaths_raised() -> Iterator[None]:
    """Raise RuntimeError when a process that loads data dies, or has died before."""
    _error_if_any_worker_fails()
    if threading.current_thread() is not threading.main_thread():  # signals are not for others
        yield
        return
    signal.signal(signal.SIGCHLD, lambda *_: _error_if_any_worker_fails())
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
