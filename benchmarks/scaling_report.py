"""What was measured of scaling, as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from benchmarks import schedule
from benchmarks.comparison import Results
from benchmarks.report import DISTURBING_CORES, MIB, UNKNOWN, Report, format_rows
from benchmarks.scaling_curves import Curve
from benchmarks.schedule import Cost

SCHEDULE_TITLE = "A 3x schedule on COCO, on paper"
NOTES = (
    "seconds: the median over the rounds, with the smallest and the largest beside it",
    "peak: the most memory that a process took beyond what it has at rest, such as its weights",
    "saved: what autograd keeps for backward, each storage once; no parameters, no image",
    "linear fits: by least squares, to the medians; residual: the largest distance of a point from "
    "its line, relative to the point; grows: largest divided by smallest",
    "multiply-adds: of one forward pass, in training too; of a detector as in the papers, with "
    "1,000 proposals and 100 masks",
    "detectors have random weights; what is timed is the loop of a test, from reading the image to "
    "encoding its masks; input area: after resizing and padding",
    "processes: forward, backward, the mean of the gradients over the processes, AdamW; speed-up "
    "and efficiency beside the first row, the latter for each thread in use; peak of one process",
)


@dataclass(frozen=True)
class ScalingReport:
    """The curves of one call of the tool, and under which conditions they came about.

    Attributes:
        curves: with their linear fits.
        processes: training in one and two processes, if it was measured.
        costs: of a schedule, on paper.
    """

    curves: Sequence[Curve]
    processes: Results | None
    costs: Sequence[Cost]

    def text(self, markdown: bool = False) -> str:
        """Format tables, notes and conditions, monospaced or as GitHub's markdown."""
        blocks = [_titled("Linear fits", self._fits(), markdown)] if self.curves else []
        blocks += [_comparison(each.results, _points(each), markdown) for each in self.curves]
        if self.processes:
            blocks.append(_comparison(self.processes, _processes(self.processes), markdown))
        blocks.append(_listed([*NOTES, *self._conditions()], markdown))
        blocks.append(_heading(SCHEDULE_TITLE, markdown) + schedule.table(self.costs, markdown))
        blocks.append(_listed(schedule.assumptions(), markdown))
        return "\n\n".join(blocks)

    def to_json(self) -> dict[str, Any]:
        """Collect everything that was measured; times in seconds, memory in bytes."""
        return {
            **self._base,
            "curves": [curve.to_json() for curve in self.curves],
            "schedule": {
                "assumptions": schedule.assumptions(),
                "costs": [{**asdict(cost), "gpu_hours": cost.gpu_hours} for cost in self.costs],
            },
        }

    @cached_property
    def _base(self) -> dict[str, Any]:
        """Conditions, notes and timings as every command reports them."""
        return Report(self._tables, notes=NOTES).to_json()

    @property
    def _tables(self) -> list[Results]:
        tables = [curve.results for curve in self.curves]
        return [*tables, self.processes] if self.processes else tables

    def _fits(self) -> list[list[str]]:
        rows = [["", "quantity", "fit", "R²", "residual", "axis grows", "quantity grows"]]
        for curve in self.curves:
            for each in curve.series:
                rows.append(
                    [
                        f"{curve.part}, {curve.mode}, against {each.axis.name}",
                        each.quantity,
                        each.equation,
                        f"{each.fit.r_squared:.4f}",
                        f"{each.fit.largest_residual:.0%}",
                        f"{max(each.xs) / min(each.xs):.1f} x",
                        f"{max(each.ys) / min(each.ys):.1f} x",
                    ]
                )
        return rows

    def _conditions(self) -> list[str]:
        facts, first = self._base["conditions"], self._tables[0]  # all were measured alike
        versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        gpus = ", ".join(facts["gpus"]) or "none"
        return [
            f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; GPU: {gpus}",
            f"{first.threads} threads, {first.rounds} rounds; {facts['date']}; mmconvnext "
            f"{facts['git_revision']}; Python {facts['python']}, {versions}",
            _disturbance(self._tables),
        ]


def _points(curve: Curve) -> list[list[str]]:
    axes = curve.axes()
    headings = ["", *(axis.unit for axis in axes), "seconds", "spread", "peak MiB"]
    rows = [headings + ["saved MiB"] * curve.train]
    for name in curve.results.timings:
        row = [
            name,
            *(f"{curve.x(name, axis):.3g}" for axis in axes),
            *_measured(curve.results, name),
        ]
        if curve.train:
            row.append(f"{curve.results.facts[name]['saved_bytes'] / MIB:.0f}")
        rows.append(row)
    return rows


def _processes(results: Results) -> list[list[str]]:
    headings = ["", "seconds", "spread", "peak MiB", "images/s", "speed-up", "efficiency"]
    rows = [[*headings, "distance of gradients"]]
    threads = {name: f["processes"] * f["threads"] for name, f in results.facts.items()}
    for name, facts in results.facts.items():
        speed_up = 1 / results.median_ratio(name)
        efficiency = speed_up * threads[results.ours] / threads[name]
        distance = results.distances.get(name, {}).get("gradients")
        rows.append(
            [
                name,
                *_measured(results, name),
                f"{facts['images'] / results.median_seconds(name):.2f}",
                f"{speed_up:.2f}",
                f"{efficiency:.0%}",
                UNKNOWN if distance is None else f"{distance:.1e}",
            ]
        )
    return rows


def _measured(results: Results, name: str) -> list[str]:
    """The cells of seconds, spread and peak memory."""
    seconds = [timing.seconds for timing in results.timings[name]]
    peak = results.peak_bytes(name)
    return [
        f"{results.median_seconds(name):.4g}",
        f"{min(seconds):.4g} to {max(seconds):.4g}",
        UNKNOWN if peak is None else f"{peak / MIB:.0f}",
    ]


def _comparison(results: Results, rows: Sequence[Sequence[str]], markdown: bool) -> str:
    table, busy = _titled(results.title, rows, markdown), _busy_cores(results)
    if not busy or busy < DISTURBING_CORES:
        return table
    return f"{table}\n\ndisturbed: other processes kept {busy:.1f} cores busy meanwhile"


def _disturbance(tables: Sequence[Results]) -> str:
    busy = [cores for each in tables if (cores := _busy_cores(each)) is not None]
    if not busy:
        return "whether other processes disturbed is not known on this system"
    disturbed = sum(cores >= DISTURBING_CORES for cores in busy)
    text = f"disturbed by other processes: {disturbed} of {len(tables)} comparisons"
    return f"{text}; measure again when the machine is quiet" if disturbed else text


def _busy_cores(results: Results) -> float | None:
    """Of the candidates that are one process: to others, their own second one is another's."""
    alone = {
        name: timings
        for name, timings in results.timings.items()
        if results.facts[name].get("processes", 1) == 1
    }
    return Results(results.title, alone).busy_cores()


def _titled(title: str, rows: Sequence[Sequence[str]], markdown: bool) -> str:
    return _heading(title, markdown) + format_rows(rows, markdown)


def _heading(title: str, markdown: bool) -> str:
    return f"**{title}**\n\n" if markdown else f"{title}\n"


def _listed(lines: Sequence[str], markdown: bool) -> str:
    return "\n".join(f"- {line}" if markdown else line for line in lines)
