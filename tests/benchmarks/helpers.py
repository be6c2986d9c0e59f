"""What the benchmarks' tests share: candidates that cost nothing, arguments, cells of tables."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import time
from collections.abc import Callable

import numpy as np

from benchmarks import comparison
from benchmarks.__main__ import parse_args
from benchmarks.worker import Candidate, Process, Timing

MIB = 2**20


def arguments(command: str, *options: object) -> argparse.Namespace:
    """A command line with one round, no warm-up, two threads and the CPU, or what it says."""
    given = [*map(str, options)]
    device = [] if command in ("data", "eval", "startup") else ["--device", "cpu"]
    return parse_args(
        [command, "--rounds", "1", "--warmup", "0", "--threads", "2", *device, *given]
    )


def cells(text: str, start: str) -> list[str]:
    """The cells of the first row of a table that starts like this."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


class InThisProcess:
    """A stand-in for ``worker.Process`` where that is not what is tested: no start, no import."""

    def __init__(self, candidate: Candidate, threads: int):
        self.candidate, self.name = candidate, candidate.name

    def __enter__(self) -> InThisProcess:
        self._made = self.candidate.factory(**self.candidate.arguments)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_until_built(self) -> None:
        pass

    def call(self, method: str) -> dict:
        return getattr(self._made, method, dict)()

    def timing(self) -> Timing:
        start = time.perf_counter()
        self._made.run()
        return Timing(time.perf_counter() - start)


def use_this_process(
    monkeypatch, which: Callable[[Candidate], bool] = lambda candidate: True
) -> None:
    """Let comparisons run these candidates in this process, the others in their own."""
    monkeypatch.setattr(
        comparison,
        "Process",
        lambda candidate, threads: (InThisProcess if which(candidate) else Process)(
            candidate, threads
        ),
    )


def dummy(name: str, compared: bool = True, **settings: object) -> Candidate:
    return Candidate(name, Dummy, settings, compared=compared, facts={"known": 1.0})


class Dummy:
    """Adds up numbers, in a way that arguments tell."""

    def __init__(self, offset=0.0, seconds=0.0, memory=0, fails_in="", module="os"):
        importlib.import_module(module)
        print("libraries print on stdout")
        self.offset, self.seconds, self.memory, self.fails_in = offset, seconds, memory, fails_in
        self.runs = 0
        self._fail("build")

    def _fail(self, place):
        if self.fails_in == place:
            raise ZeroDivisionError(f"this dummy fails in {place}")

    def check(self):
        self._fail("check")
        return {"sum": np.arange(4.0) + self.offset, "environment": np.ones(2)}

    def facts(self):
        return {"runs": self.runs, "threads": float(os.environ["OMP_NUM_THREADS"])}

    def run(self):
        self._fail("run")
        if self.fails_in == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_in == "exit":
            print("the last words of this dummy")
            os._exit(3)
        self.runs += 1
        if self.memory:
            np.ones(self.memory * MIB // 8)
        time.sleep(self.seconds)
