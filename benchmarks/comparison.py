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
from pathlib import Path

import numpy as np

from benchmarks.worker import BenchmarkError, Candidate, NotInstalledError, Process, Timing

Arrays = Mapping[str, np.ndarray]
# (name of the other candidate, our arrays, its arrays) -> named distances; raises
# `UnequalResultsError` where they are too large.
Check = Callable[[str, Arrays, Arrays], Mapping[str, float]]
OURS = "ours"
# The parts of COCO that comparisons of detectors read.
VAL = ("annotations/instances_val2017.json", "val2017")


class UnequalResultsError(BenchmarkError):
    """Two candidates computed different results, so that their times mean nothing."""


@dataclass
class Results:
    """What a comparison brought, by candidate, ours first."""

    title: str
    timings: dict[str, list[Timing]]  # one for each round
    distances: dict[str, Mapping[str, float]] = field(default_factory=dict)  # what `check` gave
    facts: dict[str, dict[str, float]] = field(default_factory=dict)  # numbers that are no timings
    missing: dict[str, str] = field(default_factory=dict)  # who was left out, and why
    threads: int = 1  # that each might use

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
    args: argparse.Namespace,
    check: Check | None = None,
    title: str = "",
) -> Results:
    """Start all candidates, have their results compared, and time them alternately.

    Args:
        candidates: ours first; where the library of another is not installed, it is left out.
        args: of the command line: ``rounds``, ``warmup`` and ``threads``.
        check: compares what ``check()`` of each gave with ours; None where nothing is compared.
        title: of the table.

    Raises:
        BenchmarkError: a candidate failed, or from ``check`` that results are not equal.
    """
    results = Results(title, {}, threads=args.threads)
    with ExitStack() as stack:
        # all at once: importing and building is the slow part
        started = [stack.enter_context(Process(each, args.threads)) for each in candidates]
        processes = _built(started, results.missing)
        if check:
            results.distances = _distances(processes, check)
        results.facts = {p.name: {**p.call("facts"), **p.candidate.facts} for p in processes}
        timings = {process.name: process.timing for process in processes}
        results.timings = alternate(timings, args.rounds, args.warmup)
    return results


def _built(processes: Sequence[Process], missing: dict[str, str]) -> list[Process]:
    """Wait for all; who cannot be built for lack of a library is left out, but for ours."""
    built = []
    for process in processes:
        say(f"starting {process.name}")
        try:
            process.wait_until_built()
            built.append(process)
        except NotInstalledError as error:
            if process is processes[0]:
                raise NotInstalledError(f"{process.name} cannot run: {error}") from None
            missing[process.name] = str(error)
            say(f"{process.name} is left out: {error}")
    return built


def _distances(processes: Sequence[Process], check: Check) -> dict[str, Mapping[str, float]]:
    first, *others = (each for each in processes if each.candidate.compared)
    say(f"computing what {first.name} gives")
    ours, found = first.call("check"), {}
    for process in others:
        say(f"comparing with {process.name}")
        found[process.name] = check(process.name, ours, process.call("check"))
    return found


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
        say(f"{label} done, about {left * last_round:.0f} s left")
    return {name: each[warmup:] for name, each in found.items()}


def demand(condition: object, otherwise: str) -> None:
    """Raise UnequalResultsError where a condition does not hold."""
    if not condition:
        raise UnequalResultsError(f"{otherwise}; nothing was timed")


def close_to(limit: float, together: bool = False) -> Check:
    """Demand that each array is ours but for rounding.

    The first word of an array's name says what it is. Of each, the largest distance is reported.

    Args:
        limit: of the L2 norm of the difference, divided by that of ours.
        together: take the arrays of what is the same as one, in place of each for itself.
    """

    def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        groups: dict[str, list[str]] = {}
        for key in sorted({*ours, *theirs}):
            shapes = [each[key].shape if key in each else None for each in (theirs, ours)]
            other = f"{name} and ours differ in {key}: its shape is {shapes[0]}, ours {shapes[1]}"
            demand(shapes[0] == shapes[1], other)
            groups.setdefault(key.partition(" ")[0] if together else key, []).append(key)
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
            kind = group.partition(" ")[0]
            distances[kind] = max(distances.get(kind, 0.0), distance)
        return distances

    return check


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands have."""
    add = parser.add_argument
    add("--rounds", type=at_least(1), default=5, help="runs of each; default: %(default)s")
    add("--warmup", type=at_least(0), default=1, help="runs before that; default: %(default)s")
    has_affinity = hasattr(os, "sched_getaffinity")  # absent on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    of_each = "of each process; default: all, %(default)s"
    add("--threads", type=at_least(1), default=cores, help=of_each)
    add("--json", metavar="FILE", help="write everything measured to a file, too")
    add("--markdown", action="store_true", help="print GitHub's markdown")


def add_data_arguments(
    parser: argparse.ArgumentParser, images: int | None = None, split: str = "val2017"
) -> None:
    """Add the folder of COCO and, with a default, the number of images of a run."""
    add = parser.add_argument
    add("--data-root", default="data/coco/", help="folder of COCO 2017, or of a subset of it")
    if images:
        how_many = f"of a run, from {split}; default: %(default)s"
        add("--images", type=at_least(1), default=images, help=how_many)


def at_least(least: int) -> Callable[[str], int]:
    """Make a reader of an option's number, for argparse."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be at least {least}")
        return int(text)

    return number


def check_coco(data_root: str, *parts: str) -> None:
    """Raise BenchmarkError where a file or folder of COCO is absent."""
    for part in parts:
        if not Path(data_root, part).exists():
            raise BenchmarkError(
                f"--data-root {data_root} has no {part}: name the folder of COCO 2017, or of a "
                f"subset of it, with {' and '.join(parts)}"
            )


def say(text: str) -> None:
    """Tell those who wait, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)
