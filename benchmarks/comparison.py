"""Candidates alternating, round by round, each in a process of its own.

Timings on a busy machine drift; what is compared is therefore timed in the same round, and the
ratio within a round is what counts. Nothing is timed before the results are equal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import worker
from benchmarks.worker import BenchmarkError, Candidate, NotInstalledError, Timing

Arrays = Mapping[str, np.ndarray]
# (name of the other candidate, our arrays, its arrays) -> named distances; raises
# `UnequalResultsError` where they are too large.
Check = Callable[[str, Arrays, Arrays], Mapping[str, float]]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "RAYON_NUM_THREADS",  # hotcoco, tokenizers
)


class UnequalResultsError(BenchmarkError):
    """Two candidates computed different results, so that their times mean nothing."""


class Process:
    """The process of a candidate; a context manager that starts and ends it.

    Args:
        candidate: who runs in it.
        threads: that its libraries may use.

    Raises:
        BenchmarkError: ``threads`` is less than 1; of the methods, that the candidate failed.
    """

    def __init__(self, candidate: Candidate, threads: int):
        if threads < 1:
            raise BenchmarkError(f"threads={threads} must be at least 1")
        self.candidate, self.name, self._threads = candidate, candidate.name, threads

    def __enter__(self) -> Process:
        """Start the process; it builds the candidate while others start theirs."""
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._log = Path(self._folder.name) / "log.txt"
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker.start,
            initargs=(str(self._log), self.candidate.python_path),
        )
        before = multiprocessing.active_children()
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._threads))
        with mock.patch.dict(os.environ, threads):  # read when libraries are imported
            self._is_built = self._pool.submit(worker.build, self.candidate)
        (self._child,) = (p for p in multiprocessing.active_children() if p not in before)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def wait_until_built(self) -> None:
        """Wait until the factory has returned; NotInstalledError where a library is absent."""
        self._result(lambda: self._is_built)

    def check(self) -> dict[str, np.ndarray]:
        """Compute what has to equal that of the other candidates."""
        return self._ask(worker.call, "check")

    def facts(self) -> dict[str, float]:
        """Ask for numbers that are no timings, such as the bytes saved for backward."""
        return self._ask(worker.call, "facts")

    def timing(self) -> Timing:
        """Run once, timed."""
        return self._ask(worker.timing)

    def _ask(self, function: Callable[..., Any], *arguments: str) -> Any:
        self.wait_until_built()
        return self._result(lambda: self._pool.submit(function, *arguments))

    def _result(self, submit: Callable[[], Future]) -> Any:
        try:
            return submit().result()
        except BrokenProcessPool:
            self._child.join()
        code = self._child.exitcode
        how = f"ended without an answer, with exit status {code}"
        if code < 0:
            reason = ", as for lack of memory" * (-code == signal.SIGKILL)
            how = f"was ended by {signal.Signals(-code).name}{reason}"
        log = self._log.read_text("utf-8", errors="replace")
        raise BenchmarkError(f"{self.name} {how}:\n{worker.tail(log)}")


@dataclass
class Results:
    """What a comparison brought.

    Attributes:
        title: of the table.
        timings: by candidate, ours first: one timing for each round.
        distances: by candidate, without ours: what ``check`` returned.
        facts: by candidate: numbers that are no timings, see :meth:`Process.facts`.
        missing: by candidate that was left out: why.
        threads: that each candidate might use.
        reference: the timings of the reference, if there was one; it is no candidate.
        reference_facts: its numbers that are no timings.
    """

    title: str
    timings: dict[str, list[Timing]]
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    reference: list[Timing] = field(default_factory=list)
    reference_facts: dict[str, float] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        """The name of the first candidate."""
        return next(iter(self.timings))

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return len(self.timings[self.ours])

    def median_seconds(self, name: str) -> float:
        """The median time of a candidate's timings."""
        return statistics.median(timing.seconds for timing in self.timings[name])

    def peak_bytes(self, name: str) -> int | None:
        """The highest peak memory of a candidate's timings, where it could be had."""
        peaks = (timing.peak_bytes for timing in self.timings[name])
        return max((peak for peak in peaks if peak is not None), default=None)

    def busy_cores(self) -> float | None:
        """How many cores other processes kept busy during the runs, on average, if known."""
        timings = [timing for each in self.timings.values() for timing in each]
        known = [timing for timing in timings if timing.others_seconds is not None]
        seconds = sum(timing.seconds for timing in known)
        return sum(timing.others_seconds for timing in known) / seconds if seconds else None

    def ratios(self, name: str) -> list[float]:
        """A candidate's time in each round, divided by ours in the same round."""
        pairs = zip(self.timings[name], self.timings[self.ours], strict=True)
        return [theirs.seconds / ours.seconds for theirs, ours in pairs]

    def median_ratio(self, name: str) -> float:
        """The median of :meth:`ratios`."""
        return statistics.median(self.ratios(name))

    def share_of_reference(self, name: str) -> float:
        """The median over the rounds of the reference's time divided by a candidate's."""
        pairs = zip(self.reference, self.timings[name], strict=True)
        return statistics.median(theirs.seconds / its.seconds for theirs, its in pairs)


def run(
    candidates: Sequence[Candidate],
    rounds: int = 5,
    warmup: int = 1,
    check: Check | None = None,
    title: str = "",
    threads: int | None = None,
    reference: Candidate | None = None,
) -> Results:
    """Start all candidates, have their results compared, and time them alternately.

    Args:
        candidates: ours first; names differ.
        rounds: how many runs each has. Who begins changes from round to round.
        warmup: runs before that, which are not counted.
        check: compares what ``check()`` of each candidate gave with what ours gave, before
            anything is timed; None where there is nothing to compare (then no ``check()`` runs).
        title: of the table.
        threads: that each candidate may use; None for the cores that this process may use.
        reference: alternates with the others, but its results are not compared: to relate times to
            what the machine could do in the same round.

    Raises:
        UnequalResultsError: from ``check``.
        BenchmarkError: an argument is wrong, or a candidate failed; others than ours whose library
            is not installed are left out.
    """
    if rounds < 1 or warmup < 0:
        raise BenchmarkError(f"rounds={rounds} must be at least 1, and warmup={warmup} at least 0")
    names = [each.name for each in (*candidates, *([reference] if reference else []))]
    if not names or len({*names}) < len(names):
        raise BenchmarkError(f"candidates need names of their own; they are {names}")
    results = Results(title, {}, threads=available_cores() if threads is None else threads)
    with ExitStack() as stack:
        # all at once: importing and building is the slow part
        started = [stack.enter_context(Process(each, results.threads)) for each in candidates]
        processes = _installed(started, results.missing)
        if check:
            results.distances = _distances(processes, check)
        results.facts = {process.name: process.facts() for process in processes}
        if reference:
            processes.append(stack.enter_context(Process(reference, results.threads)))
            results.reference_facts = processes[-1].facts()
        results.timings = alternate({p.name: p.timing for p in processes}, rounds, warmup)
        if reference:
            results.reference = results.timings.pop(reference.name)
    return results


def run_options(args: argparse.Namespace) -> dict[str, int]:
    """What every command line says of how to :func:`run`."""
    return {"rounds": args.rounds, "warmup": args.warmup, "threads": args.threads}


def check_positive(**numbers: int) -> None:
    """Raise BenchmarkError where the number of an option is less than 1."""
    for name, number in numbers.items():
        if number < 1:
            raise BenchmarkError(f"--{name} {number} must be at least 1")


def alternate(
    timings: Mapping[str, Callable[[], Timing]], rounds: int, warmup: int
) -> dict[str, list[Timing]]:
    """Time what has these names, round by round; who begins changes; the warm-up is left out."""
    names = list(timings)
    found: dict[str, list[Timing]] = {name: [] for name in names}
    for index in range(warmup + rounds):
        start = index % len(names)
        for name in (*names[start:], *names[:start]):
            found[name].append(timings[name]())
        left = warmup + rounds - index - 1
        last_round = sum(each[-1].seconds for each in found.values())
        label = f"round {index + 1 - warmup} of {rounds}" if index >= warmup else "warm-up"
        _say(f"{label} done, about {left * last_round:.0f} s left")
    return {name: each[warmup:] for name, each in found.items()}


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def demand(condition: object, otherwise: str) -> None:
    """Raise UnequalResultsError where a condition does not hold."""
    if not condition:
        raise UnequalResultsError(f"{otherwise}; nothing was timed")


def relative_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The L2 norm of the difference, divided by that of ours; not finite where a value is not."""
    reference, other = (array.astype(np.float64).ravel() for array in (ours, theirs))
    difference, size = np.linalg.norm(other - reference), np.linalg.norm(reference)
    return float(difference / size if size else difference)


def close_to(limit: float, label: Callable[[str], str] = str, together: bool = False) -> Check:
    """Demand that each array is ours but for rounding.

    Args:
        limit: of the relative distance.
        label: under which name an array's distance is reported; of those with the same name, the
            largest is.
        together: take the arrays with the same label as one, in place of each for itself.
    """

    def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        for key in sorted({*ours, *theirs}):
            shapes = [each[key].shape if key in each else None for each in (theirs, ours)]
            other = f"{name} and ours differ in {key}: its shape is {shapes[0]}, ours {shapes[1]}"
            demand(shapes[0] == shapes[1], other)
        groups: dict[str, list[str]] = {}
        for key in ours:
            groups.setdefault(label(key) if together else key, []).append(key)
        distances: dict[str, float] = {}
        for group, keys in groups.items():
            joined = [np.concatenate([each[k].ravel() for k in keys]) for each in (ours, theirs)]
            distance = relative_distance(*joined)
            demand(
                distance <= limit,  # not where it is not a number
                f"{name} and ours differ in {group}: their relative distance is {distance:.3g}, at "
                f"most {limit:g} is allowed",
            )
            shown = label(keys[0])
            distances[shown] = max(distances.get(shown, 0.0), distance)
        return distances

    return check


def _installed(processes: Sequence[Process], missing: dict[str, str]) -> list[Process]:
    """Those that could be built, ours must be; of the others, it is noted why not."""
    present = []
    for process in processes:
        _say(f"starting {process.name}")
        try:
            process.wait_until_built()
            present.append(process)
        except NotInstalledError as error:
            if process is processes[0]:
                raise NotInstalledError(f"{process.name} cannot run: {error}") from None
            missing[process.name] = str(error)
            _say(f"{process.name} is left out: {error}")
    return present


def _distances(processes: Sequence[Process], check: Check) -> dict[str, dict[str, float]]:
    first, *others = processes
    _say(f"computing what {first.name} gives")
    ours = first.check()
    distances = {}
    for process in others:
        _say(f"comparing with {process.name}")
        distances[process.name] = dict(check(process.name, ours, process.check()))
    return distances


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
