"""The process of one candidate, seen from the comparison; ``worker.py`` is what runs in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmconvnext.errors import UserError

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "RAYON_NUM_THREADS",  # hotcoco, tokenizers
)
NUM_LINES_OF_LOG = 15
SECONDS_TO_END = 10


class BenchmarkError(UserError):
    """A comparison that cannot be run, or a candidate that failed in it."""


class NotInstalledError(BenchmarkError):
    """A candidate whose library is absent.

    Attributes:
        reason: what is missing, without the candidate's name.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} is left out: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Candidate:
    """Who takes part in a comparison.

    Attributes:
        name: as shown.
        factory: ``package.module:function``; called in the candidate's process, it returns an
            object with ``check()``, a dict of arrays that must equal the others', and
            ``run()``, which is timed. It may have ``facts()``, a dict of numbers, too.
        arguments: the factory's keyword arguments, of JSON's types.
        python_path: folders with its library, in place of PYTHONPATH.
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


class Process:
    """The process of a candidate; a context manager that starts and ends it.

    Args:
        candidate: who runs in it.
        threads: that its libraries may use; None leaves that to the environment.

    Raises:
        BenchmarkError: ``threads`` is less than 1.
    """

    def __init__(self, candidate: Candidate, threads: int | None = None):
        if threads is not None and threads < 1:
            raise BenchmarkError(f"threads={threads} must be at least 1")
        self.candidate = candidate
        self.name = candidate.name
        self._threads = threads
        self._built = False

    def __enter__(self) -> Process:
        """Start the process; it builds the candidate while others start theirs."""
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._log = Path(self._folder.name) / "log.txt"
        reading, writing = os.pipe()
        arguments = (self.candidate.factory, json.dumps(dict(self.candidate.arguments)))
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", *arguments, str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                env=self._environment(),
            )
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it ended before
            self._worker.stdin.close()  # the worker ends when there are no more commands
        try:
            self._worker.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._answers.close()
        self._folder.cleanup()

    def wait_until_built(self) -> None:
        """Wait until the factory has returned.

        Raises:
            NotInstalledError: it asked for a library that is absent.
            BenchmarkError: it failed.
        """
        if not self._built:
            self._answer()
            self._built = True

    def check(self) -> dict[str, np.ndarray]:
        """Compute what has to equal that of the other candidates.

        Raises:
            BenchmarkError: it failed; the message has the end of its traceback.
        """
        path = Path(self._folder.name) / "check.npz"
        self._ask("check", path=str(path))
        with np.load(path) as arrays:
            checked = dict(arrays)
        path.unlink()
        return checked

    def facts(self) -> dict[str, float]:
        """Ask for numbers that are no timings, such as the bytes saved for backward.

        Raises:
            BenchmarkError: see :meth:`check`.
        """
        return self._ask("facts")["facts"]

    def timing(self) -> Timing:
        """Run once, timed.

        Raises:
            BenchmarkError: see :meth:`check`.
        """
        return Timing(**self._ask("timing"))

    def _environment(self) -> dict[str, str]:
        # In place of the caller's own path: nothing may come before the candidate's library.
        path = os.pathsep.join([*self.candidate.python_path, str(PACKAGE_ROOT)])
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._threads)) if self._threads else {}
        return {**os.environ, **threads, "PYTHONPATH": path}

    def _ask(self, command: str, **details: str) -> dict[str, Any]:
        self.wait_until_built()
        try:
            self._worker.stdin.write(json.dumps({"do": command, **details}).encode() + b"\n")
            self._worker.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; there will be no answer, and that is reported
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise BenchmarkError(f"{self.name} {self._death()}:\n{_tail(self._logged())}")
        answer = json.loads(line)
        if "missing" in answer:
            raise NotInstalledError(self.name, answer["missing"])
        if "error" in answer:
            raise BenchmarkError(f"{self.name} failed:\n{_tail(answer['error'])}")
        return answer

    def _death(self) -> str:
        code = self._worker.wait()
        if code >= 0:
            return f"ended without an answer, with exit status {code}"
        reason = ", as for lack of memory" * (-code == signal.SIGKILL)
        return f"was ended by {signal.Signals(-code).name}{reason}"

    def _logged(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def _tail(text: str) -> str:
    lines = text.strip().splitlines()[-NUM_LINES_OF_LOG:]
    return "\n".join(f"  {line}" for line in lines)
