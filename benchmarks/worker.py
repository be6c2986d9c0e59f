"""What runs in the process of a candidate: it is built, checked and timed."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEERS = Path(sys.prefix) / "peers"
STAT = Path("/proc/stat")
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)

_candidate: Any = None
_at_rest: int | None = None


class FailedError(Exception):
    """A candidate's code failed; the message is the traceback."""


class MissingError(Exception):
    """A candidate's library is absent; the message says which."""


def start(log: str, python_path: Sequence[str]) -> None:
    """Send what libraries print to a file; of the peers' folders, leave the candidate's alone.

    A spawned process has its parent's ``sys.path``, and some of the peers exclude each other.
    """
    with open(log, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    others = [entry for entry in sys.path if PEERS not in Path(entry).parents]
    sys.path[:] = [*python_path, *others]


def build(factory: str, arguments: dict[str, Any]) -> None:
    """Build the candidate with ``package.module:function``."""
    global _candidate
    module, _, name = factory.partition(":")
    try:
        _candidate = getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:
        absent = (error.name or "") if isinstance(error, ImportError) else ""
        if not absent or absent.partition(".")[0] == module.partition(".")[0]:
            raise FailedError(traceback.format_exc()) from None
        if isinstance(error, ModuleNotFoundError):
            raise MissingError(f"{absent} is not installed") from None
        raise MissingError(f"{absent} cannot be imported: {error}") from None


def call(method: str) -> dict[str, Any]:
    """Call ``check`` or ``facts`` of the candidate; an empty dict where it has no such method."""
    global _at_rest
    answer = _guarded(getattr(_candidate, method, dict))
    _at_rest = _resident_at_rest()
    return answer


def timing() -> dict[str, Any]:
    """Run once; return the fields of :class:`benchmarks.comparison.Timing`."""
    global _at_rest
    if _at_rest is None:
        _at_rest = _resident_at_rest()
    torch = sys.modules.get("torch")
    cuda = torch.cuda if torch and torch.cuda.is_initialized() else None
    if cuda:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        at_rest = cuda.memory_allocated()
    else:
        at_rest = _at_rest if _reset_resident_peak() else None
    others = _others_seconds()
    start = time.perf_counter()
    _guarded(_candidate.run)
    if cuda:
        cuda.synchronize()
    seconds = time.perf_counter() - start
    if others is not None:
        others = max(_others_seconds() - others, 0.0)
    peak = cuda.max_memory_allocated() if cuda else _status_bytes("VmHWM")
    known = peak is not None and at_rest is not None
    peak_bytes = max(peak - at_rest, 0) if known else None
    return {"seconds": seconds, "peak_bytes": peak_bytes, "others_seconds": others}


def _guarded(function: Any) -> Any:
    try:
        return function()
    except Exception:  # anybody's code: it is reported to the comparison
        raise FailedError(traceback.format_exc()) from None


def _resident_at_rest() -> int | None:
    """Resident memory without what was freed; measured outside of runs, as it empties the heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
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
    own = os.times()
    own_seconds = own.user + own.system + own.children_user + own.children_system
    return busy / os.sysconf("SC_CLK_TCK") - own_seconds


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
