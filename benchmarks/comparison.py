"""Candidates alternating, round by round, each in a process of its own.

Timings on a busy machine drift; what is compared is therefore timed in the same round, and the
ratio within a round is what counts. Nothing is timed before the results are equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from benchmarks.worker import BenchmarkError, Candidate, NotInstalledError, Process, Timing

Arrays = Mapping[str, np.ndarray]
# (name of the other candidate, our arrays, its arrays) -> named distances; raises
# `UnequalResultsError` where they are too large.
Check = Callable[[str, Arrays, Arrays], Mapping[str, float]]


class UnequalResultsError(BenchmarkError):
    """Two candidates computed different results, so that their times mean nothing."""


@dataclass
class Results:
    """What a comparison brought.

    Attributes:
        title: of the table.
        timings: by candidate, ours first: one timing for each round.
        distances: by candidate, without ours: what ``check`` returned.
        facts: by candidate: numbers that are no timings.
        missing: by candidate that was left out: why.
        threads: that each candidate might use.
    """

    title: str
    timings: dict[str, list[Timing]]
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    threads: int = 1

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

    def ratios(self, name: str, base: str | None = None) -> list[float]:
        """A candidate's time in each round, divided by that of ours, or another, in the round."""
        pairs = zip(self.timings[name], self.timings[base or self.ours], strict=True)
        return [theirs.seconds / ours.seconds for theirs, ours in pairs]

    def median_ratio(self, name: str, base: str | None = None) -> float:
        """The median of :meth:`ratios`."""
        return statistics.median(self.ratios(name, base))


def run(
    candidates: Sequence[Candidate],
    rounds: int,
    warmup: int,
    threads: int,
    check: Check | None = None,
    title: str = "",
) -> Results:
    """Start all candidates, have their results compared, and time them alternately.

    Args:
        candidates: ours first; names differ.
        rounds: how many runs each has. Who begins changes from round to round.
        warmup: runs before that, which are not counted.
        threads: that each candidate may use.
        check: compares what ``check()`` of each candidate gave with what ours gave, before
            anything is timed; None where there is nothing to compare (then no ``check()`` runs).
        title: of the table.

    Raises:
        UnequalResultsError: from ``check``.
        BenchmarkError: a candidate failed; others than ours whose library is not installed are
            left out.
    """
    results = Results(title, {}, threads=threads)
    with ExitStack() as stack:
        # all at once: importing and building is the slow part
        started = [stack.enter_context(Process(each, threads)) for each in candidates]
        processes = _installed(started, results.missing)
        if check:
            results.distances = _distances([p for p in processes if p.candidate.compared], check)
        results.facts = {process.name: process.call("facts") for process in processes}
        results.timings = alternate({p.name: p.timing for p in processes}, rounds, warmup)
    return results


def run_options(args: argparse.Namespace) -> dict[str, int]:
    """What every command line says of how to :func:`run`."""
    if args.warmup < 0:
        raise BenchmarkError(f"--warmup {args.warmup} must be at least 0")
    return {"rounds": args.rounds, "warmup": args.warmup, "threads": args.threads}


def positive(text: str) -> int:
    """Read the number of an option, which must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


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


def close_to(limit: float, label: Callable[[str], str] = str, together: bool = False) -> Check:
    """Demand that each array is ours but for rounding.

    Args:
        limit: of the L2 norm of the difference, divided by that of ours.
        label: under which name an array's distance is reported; of those with the same name, the
            largest is.
        together: take the arrays with the same label as one, in place of each for itself.
    """

    def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        groups: dict[str, list[str]] = {}
        for key in sorted({*ours, *theirs}):
            shapes = [each[key].shape if key in each else None for each in (theirs, ours)]
            other = f"{name} and ours differ in {key}: its shape is {shapes[0]}, ours {shapes[1]}"
            demand(shapes[0] == shapes[1], other)
            groups.setdefault(label(key) if together else key, []).append(key)
        distances: dict[str, float] = {}
        for group, keys in groups.items():
            reference, other = (
                np.concatenate([each[key].ravel() for key in keys]).astype(np.float64)
                for each in (ours, theirs)
            )
            distance = float(np.linalg.norm(other - reference) / (np.linalg.norm(reference) or 1))
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
    ours = first.call("check")
    distances = {}
    for process in others:
        _say(f"comparing with {process.name}")
        distances[process.name] = dict(check(process.name, ours, process.call("check")))
    return distances


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
