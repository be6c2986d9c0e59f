"""What runs in the process of a candidate: it is built, checked and timed."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmconvnext.errors import UserError

PEERS = Path(sys.prefix) / "peers"  # where `make setup` puts libraries that exclude each other
STAT = Path("/proc/stat")
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)
NUM_LINES_OF_LOG = 15


class BenchmarkError(UserError):
    """A comparison that cannot be run, or a candidate that failed in it."""


class NotInstalledError(BenchmarkError):
    """A candidate whose library is absent; the message says what, without the candidate's name."""


@dataclass(frozen=True)
class Candidate:
    """Who takes part in a comparison.

    Attributes:
        name: as shown.
        factory: ``package.module:function``; called in the candidate's process, it returns an
            object with ``check()``, a dict of arrays that must equal the others', and
            ``run()``, which is timed. It may have ``facts()``, a dict of numbers, too.
        arguments: the factory's keyword arguments.
        python_path: folders with its library, before everything else.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    python_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """One timed run.

    Attributes:
        seconds: wall time, of the GPU's work too where it is used.
        peak_bytes: the most memory that it took above what the process had at rest: of the GPU
            where it is used, else resident; None where the system does not tell.
        others_seconds: processor time that other processes took meanwhile; likewise.
    """

    seconds: float
    peak_bytes: int | None
    others_seconds: float | None = None


_name = ""
_built: Any = None
_at_rest: int | None = None


def start(log: str, python_path: tuple[str, ...]) -> None:
    """Send what libraries print to a file; of the peers' folders, leave the candidate's alone.

    A spawned process has its parent's ``sys.path``, and some of the peers exclude each other.
    """
    with open(log, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    others = [entry for entry in sys.path if PEERS not in Path(entry).parents]
    sys.path[:] = [*python_path, *others]


def build(candidate: Candidate) -> None:
    """Build the candidate; may raise NotInstalledError, and BenchmarkError as all that follows."""
    global _built, _name
    _name = candidate.name
    module, _, name = candidate.factory.partition(":")
    with _reported():
        try:
            _built = getattr(importlib.import_module(module), name)(**candidate.arguments)
        except ImportError as error:
            absent = error.name or ""
            if not absent or absent.partition(".")[0] == module.partition(".")[0]:
                raise
            if isinstance(error, ModuleNotFoundError):
                raise NotInstalledError(f"{absent} is not installed") from None
            raise NotInstalledError(f"{absent} cannot be imported: {error}") from None


def call(method: str) -> dict[str, Any]:
    """Call ``check`` or ``facts`` of the candidate; an empty dict where it has no such method."""
    global _at_rest
    with _reported():
        answer = getattr(_built, method, dict)()
    _at_rest = _resident_at_rest()
    return answer


def timing() -> Timing:
    """Run once."""
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_initialized() else None
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        at_rest = cuda.memory_allocated()
    else:
        at_rest = _at_rest or _resident_at_rest()
        at_rest = at_rest if _reset_resident_peak() else None
    others = _others_seconds()
    start = time.perf_counter()
    with _reported():
        _built.run()
    if cuda:
        cuda.synchronize()
    seconds = time.perf_counter() - start
    if others is not None:
        others = max(_others_seconds() - others, 0.0)
    peak = cuda.max_memory_allocated() if cuda else _status_bytes("VmHWM")
    is_known = peak is not None and at_rest is not None
    return Timing(seconds, max(peak - at_rest, 0) if is_known else None, others)


def tail(text: str) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-NUM_LINES_OF_LOG:])


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except NotInstalledError:
        raise
    except Exception:  # anybody's code
        raise BenchmarkError(f"{_name} failed:\n{tail(traceback.format_exc())}") from None


def _resident_at_rest() -> int | None:
    """Resident memory without what was freed; measured outside of runs, as it empties the heap."""
    gc.collect()
    trim: Callable | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim:
        trim(0)
    return _status_bytes("VmRSS")


def _others_seconds() -> float | None:
    """Processor time that all processes but this one have taken since the system's start."""
    try:
        fields = STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields)
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def _reset_resident_peak() -> bool:
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:  # no Linux, or one that does not allow it
        return False
    return True


def _status_bytes(name: str) -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None
