"""What runs in a candidate's process.

    python -m benchmarks.worker FACTORY JSON [FD]

It builds the candidate, then reads commands from stdin, one JSON object a line, and answers on the
file descriptor FD (default: 1, stdout), one line each; what libraries print goes elsewhere.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

STAT = Path("/proc/stat")
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)


class Worker:
    """A candidate, its commands, and how its memory is measured.

    Args:
        candidate: what the factory returned.
    """

    def __init__(self, candidate: Any):
        self.candidate = candidate
        self._at_rest: int | None = None

    def check(self, path: str) -> dict[str, Any]:
        """Write what has to be equal into an .npz file."""
        import numpy as np

        np.savez(path, **self.candidate.check())
        self._at_rest = _resident_at_rest()
        return {}

    def facts(self) -> dict[str, Any]:
        """Return the candidate's numbers that are no timings, none if it has no such method."""
        facts = self.candidate.facts() if hasattr(self.candidate, "facts") else {}
        self._at_rest = _resident_at_rest()
        return {"facts": facts}

    def timing(self) -> dict[str, Any]:
        """Run once; return the fields of :class:`benchmarks.process.Timing`."""
        if self._at_rest is None:
            self._at_rest = _resident_at_rest()
        cuda = _used_cuda()
        if cuda:
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
            at_rest = cuda.memory_allocated()
        else:
            at_rest = self._at_rest if _reset_resident_peak() else None
        others = _others_seconds()
        start = time.perf_counter()
        self.candidate.run()
        if cuda:
            cuda.synchronize()
        seconds = time.perf_counter() - start
        if others is not None:
            others = max(_others_seconds() - others, 0.0)
        peak = cuda.max_memory_allocated() if cuda else _status_bytes("VmHWM")
        known = peak is not None and at_rest is not None
        peak_bytes = max(peak - at_rest, 0) if known else None
        return {"seconds": seconds, "peak_bytes": peak_bytes, "others_seconds": others}


def main(factory: str, arguments: str, descriptor: str = "1") -> int:
    """Build the candidate and obey until stdin ends."""
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as answers:
        try:
            worker = Worker(_load(factory)(**json.loads(arguments)))
        except Exception as error:  # anybody's code: it is reported to the comparison
            _answer(answers, _explain(error, factory))
            return 1
        _answer(answers, {})
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(worker, command.pop("do"))(**command)
            except Exception:  # likewise
                _answer(answers, {"error": traceback.format_exc()})
                return 1
            _answer(answers, answer)
    return 0


def _load(factory: str) -> Callable[..., Any]:
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)


def _explain(error: Exception, factory: str) -> dict[str, str]:
    own = factory.partition(":")[0].partition(".")[0]
    absent = (error.name or "") if isinstance(error, ImportError) else ""
    if not absent or absent.partition(".")[0] == own:
        return {"error": traceback.format_exc()}
    if isinstance(error, ModuleNotFoundError):
        return {"missing": f"{absent} is not installed"}
    return {"missing": f"{absent} cannot be imported: {error}"}  # it does not fit another library


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _used_cuda() -> Any:
    """The part of torch for CUDA where the candidate has used it, or None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_initialized() else None


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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
