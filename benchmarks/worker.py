"""A candidate in a process of its own: it is built, checked and timed there."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from mmconvnext.errors import UserError

PEERS = Path(sys.prefix) / "peers"  # where `make setup` puts libraries that exclude each other
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
    "RAYON_NUM_THREADS",  # hotcoco, tokenizers
)
NUM_LINES_OF_LOG = 15


class BenchmarkError(UserError):
    """A comparison that cannot be run, or a candidate that failed in it."""


class NotInstalledError(BenchmarkError):
    """A candidate whose library is absent."""


@dataclass(frozen=True)
class Candidate:
    """Who takes part in a comparison.

    What ``factory(**arguments)`` returns in its process has ``run()``, which is timed, and may have
    ``check()``, a dict of arrays that must equal the others', and ``facts()``, a dict of numbers.
    """

    name: str
    factory: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    python_path: tuple[str, ...] = ()  # folders with its library, before everything else
    compared: bool = True  # else it only relates times to the machine
    facts: Mapping[str, float] = field(default_factory=dict)  # those that are known beforehand


def python_path(library: str) -> tuple[str, ...]:
    """The folder of a library that lies in one of its own, if it does."""
    return (str(PEERS / library),) if (PEERS / library).is_dir() else ()


class Timing(NamedTuple):
    """One timed run; None is what the system does not tell."""

    seconds: float  # wall time, of the GPU's work too where it is used
    # the most memory above what the process had at rest: of the GPU where it is used, else resident
    peak_bytes: int | None = None
    others_seconds: float | None = None  # processor time that other processes took meanwhile


class Process:
    """The process of a candidate; a context manager. Its methods may raise BenchmarkError."""

    def __init__(self, candidate: Candidate, threads: int):
        self.candidate, self.name, self._threads = candidate, candidate.name, threads

    def __enter__(self) -> Process:
        """Start the process; it builds the candidate while others start theirs."""
        self._log = tempfile.NamedTemporaryFile(prefix="benchmark-")
        arguments = (self._log.name, self.candidate.python_path)
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, start_worker, arguments)
        before = multiprocessing.active_children()
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._threads))
        with mock.patch.dict(os.environ, threads):  # read when libraries are imported
            self._built = self._pool.submit(_build, self.candidate)
        (self._child,) = (p for p in multiprocessing.active_children() if p not in before)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)
        self._log.close()

    def wait_until_built(self) -> None:
        """Wait until the factory has returned; NotInstalledError where a library is absent."""
        self._ask()

    def call(self, method: str) -> dict[str, Any]:
        """Call ``check`` or ``facts``; an empty dict where the candidate has no such method."""
        return self._ask(_call, method)

    def timing(self) -> Timing:
        """Run once, timed; after the first :meth:`call`, which sees what memory is at rest."""
        return self._ask(_timing)

    def _ask(self, function: Callable[..., Any] | None = None, *arguments: str) -> Any:
        try:
            built = self._built.result()
            return self._pool.submit(function, *arguments).result() if function else built
        except BrokenProcessPool:
            self._child.join()
        code = self._child.exitcode
        how = f"ended without an answer, with exit status {code}"
        if code < 0:
            reason = ", as for lack of memory" * (-code == signal.SIGKILL)
            how = f"was ended by {signal.Signals(-code).name}{reason}"
        log = Path(self._log.name).read_text("utf-8", errors="replace")
        raise BenchmarkError(f"{self.name} {how}:\n{_tail(log)}")


# What follows runs in the process of a candidate.
_name = ""
_candidate: Any = None
_at_rest: int | None = None


def start_worker(log: str, python_path: Sequence[str]) -> None:
    """Send what libraries print to a file; of the peers' folders, leave the candidate's alone.

    A spawned process has its parent's ``sys.path``, and some of the peers exclude each other.
    """
    with open(log, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    others = [entry for entry in sys.path if PEERS not in Path(entry).parents]
    sys.path[:] = [*python_path, *others]


def _build(candidate: Candidate) -> None:
    global _candidate, _name
    _name = candidate.name
    with _reported():
        try:
            _candidate = candidate.factory(**candidate.arguments)
        except ImportError as error:
            raise NotInstalledError(str(error)) from None


def _call(method: str) -> dict[str, Any]:
    global _at_rest
    with _reported():
        answer = getattr(_candidate, method, dict)()
    gc.collect()
    with suppress(AttributeError):  # glibc has it: memory that was freed goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    _at_rest = status_bytes("VmRSS")
    return answer


def _timing() -> Timing:
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_initialized() else None
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        at_rest = cuda.memory_allocated()
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
            at_rest = _at_rest
        except OSError:  # no Linux, or one that does not allow it
            at_rest = None
    others, start = _others_seconds(), time.perf_counter()
    with _reported():
        _candidate.run()
    if cuda:
        cuda.synchronize()
    seconds = time.perf_counter() - start
    if others is not None:
        others = max(_others_seconds() - others, 0.0)
    peak = cuda.max_memory_allocated() if cuda else status_bytes("VmHWM")
    return Timing(seconds, None if None in (peak, at_rest) else max(peak - at_rest, 0), others)


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-NUM_LINES_OF_LOG:])


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except NotInstalledError:
        raise
    except Exception:  # anybody's code
        raise BenchmarkError(f"{_name} failed:\n{_tail(traceback.format_exc())}") from None


def _others_seconds() -> float | None:
    """Processor time that all processes but this one have taken since the system's start."""
    with suppress(OSError):  # no Linux
        numbers = map(int, Path("/proc/stat").read_text().split()[1:9])
        user, nice, system, _idle, _waiting, *interrupts_and_stolen = numbers
        busy = user + nice + system + sum(interrupts_and_stolen)
        return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def status_bytes(name: str) -> int | None:
    """A number of this process in proc(5), such as VmHWM; None where the system has none."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
        return int(kilobytes) * 1024
