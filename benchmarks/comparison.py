"""Candidates alternating, round by round, each in a process of its own.

Timings on a busy machine drift; what is compared is therefore timed in the same round, and the
ratio within a round is what counts. Nothing is timed before the results are equal.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from benchmarks.process import (
    BenchmarkError,
    Candidate,
    NotInstalledError,
    Process,
    Timing,
)

__all__ = [
    "Arrays",
    "BenchmarkError",
    "Candidate",
    "Check",
    "NotInstalledError",
    "Process",
    "Results",
    "Timing",
    "UnequalResultsError",
    "available_cores",
    "close_to",
    "relative_distance",
    "run",
]

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
        peaks = [
            timing.peak_bytes for timing in self.timings[name] if timing.peak_bytes is not None
        ]
        return max(peaks, default=None)

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

    Returns:
        The times, and who was left out because a library is not installed.

    Raises:
        UnequalResultsError: from ``check``.
        BenchmarkError: an argument is wrong, or a candidate failed.
    """
    threads = available_cores() if threads is None else threads
    _check_arguments([*candidates, *([reference] if reference else [])], rounds, warmup)
    with ExitStack() as stack:
        # all at once: importing and building is the slow part
        started = [stack.enter_context(Process(each, threads)) for each in candidates]
        beside = [stack.enter_context(Process(reference, threads))] if reference else []
        processes, missing = _installed(started)
        results = Results(title, {}, missing=missing, threads=threads)
        results.distances = _distances(processes, check) if check else {}
        results.facts = {process.name: process.facts() for process in processes}
        results.reference_facts = beside[0].facts() if beside else {}
        timings = _alternate([*processes, *beside], rounds, warmup)
        results.reference = timings.pop(beside[0].name) if beside else []
        results.timings = timings
        return results


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        _check_same_arrays(name, ours, theirs)
        groups = _grouped(ours, label if together else str)
        distances: dict[str, float] = {}
        for group, keys in groups.items():
            distance = relative_distance(*(_joined(each, keys) for each in (ours, theirs)))
            if not distance <= limit:  # also where it is not a number
                raise UnequalResultsError(
                    f"{name} and ours differ in {group}: their relative distance is "
                    f"{distance:.3g}, at most {limit:g} is allowed; nothing was timed"
                )
            shown = label(keys[0])
            distances[shown] = max(distances.get(shown, 0.0), distance)
        return distances

    return check


def _grouped(names: Iterable[str], label: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(label(name), []).append(name)
    return groups


def _joined(arrays: Arrays, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in names])


def _check_same_arrays(name: str, ours: Arrays, theirs: Arrays) -> None:
    ours_alone, theirs_alone = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if ours_alone or theirs_alone:
        raise UnequalResultsError(
            f"{name} and ours give different things: only ours {ours_alone}, only {name} "
            f"{theirs_alone}; nothing was timed"
        )
    for key, array in ours.items():
        if array.shape != theirs[key].shape:
            raise UnequalResultsError(
                f"{name} and ours differ in {key}: its shape is {theirs[key].shape}, ours "
                f"{array.shape}; nothing was timed"
            )


def _check_arguments(candidates: Sequence[Candidate], rounds: int, warmup: int) -> None:
    if rounds < 1 or warmup < 0:
        raise BenchmarkError(
            f"rounds={rounds} must be at least 1, and warmup={warmup} at least 0: a comparison "
            "without rounds has no result"
        )
    names = [candidate.name for candidate in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise BenchmarkError(f"candidates need names of their own; they are {names}")


def _installed(processes: Sequence[Process]) -> tuple[list[Process], dict[str, str]]:
    """Those that could be built; ours must be."""
    present, missing = [], {}
    for process in processes:
        _say(f"starting {process.name}")
        try:
            process.wait_until_built()
            present.append(process)
        except NotInstalledError as error:
            if process is processes[0]:
                raise
            missing[process.name] = error.reason
            print(error, file=sys.stderr)
    return present, missing


def _distances(processes: Sequence[Process], check: Check) -> dict[str, dict[str, float]]:
    first, *others = processes
    _say(f"computing what {first.name} gives")
    ours = first.check()
    distances = {}
    for process in others:
        _say(f"comparing with {process.name}")
        distances[process.name] = dict(check(process.name, ours, process.check()))
    return distances


def _alternate(processes: Sequence[Process], rounds: int, warmup: int) -> dict[str, list[Timing]]:
    timings: dict[str, list[Timing]] = {process.name: [] for process in processes}
    for index in range(warmup + rounds):
        start = index % len(processes)
        for process in (*processes[start:], *processes[:start]):
            timings[process.name].append(process.timing())
        left = warmup + rounds - index - 1
        last_round = sum(each[-1].seconds for each in timings.values())
        label = f"round {index + 1 - warmup} of {rounds}" if index >= warmup else "warm-up"
        _say(f"{label} done, about {left * last_round:.0f} s left")
    return {name: each[warmup:] for name, each in timings.items()}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
