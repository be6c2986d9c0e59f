"""What a comparison brought, as text for people and as JSON for programs."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.comparison import Results
from benchmarks.worker import PEERS

MIB = 2**20
UNKNOWN = "-"
DISTURBING_CORES = 0.1  # busy with other processes
PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "mmpretrain", "mmdet", "mmengine", "mmcv"),
    *("mmcv-lite", "numpy", "opencv-python", "pycocotools", "hotcoco"),
)


class Column(NamedTuple):
    """A column beside those that every table has: its heading, and the cell of a candidate."""

    heading: str
    cell: Callable[[Results, str], str]


def fact_column(heading: str, fact: str, scale: float = 1.0, form: str = ".3g") -> Column:
    """Make a column of a fact, divided by a scale; candidates may lack it."""

    def cell(results: Results, name: str) -> str:
        value = results.facts[name].get(fact)
        return UNKNOWN if value is None else f"{value / scale:{form}}"

    return Column(heading, cell)


@dataclass(frozen=True)
class Report:
    """The tables of one call of the tool, and under which conditions they came about.

    Attributes:
        tables: one for each comparison.
        columns: more columns of every table.
        notes: lines below the tables, on how to read them.
        first: what the first row of a table is.
        summary: rows of a table before the others, under their title; headings first.
        extra: more of what was measured, for JSON.
    """

    tables: Sequence[Results]
    columns: Sequence[Column] = ()
    notes: Sequence[str] = ()
    first: str = "ours"
    summary: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def text(self, markdown: bool = False) -> str:
        """Format tables, notes and conditions, monospaced or as GitHub's markdown."""
        blocks = [titled(title, rows, markdown) for title, rows in self.summary.items()]
        blocks += [self._table(results, markdown) for results in self.tables]
        first = self.first
        ratio = f"time / {first}: median over the rounds of the time divided by that of {first} in"
        threads, rounds = (
            " and ".join(map(str, sorted({getattr(results, name) for results in self.tables})))
            for name in ("threads", "rounds")
        )
        when = f"{threads} threads each, {rounds} rounds; {_today()}; {machine_line()}"
        lines = [*self.notes, f"{ratio} the same round", when]
        return "\n\n".join([*blocks, listed(lines, markdown)])

    def to_json(self) -> dict[str, Any]:
        """Collect everything that was measured; times in seconds, memory in bytes."""
        return {
            "conditions": {**describe(), "date": _today()},
            "notes": list(self.notes),
            "tables": [_table_json(results) for results in self.tables],
            **self.extra,
        }

    def _table(self, results: Results, markdown: bool) -> str:
        names = ("seconds", f"time / {self.first}", "spread", "peak MiB")
        headings = ["", *names, f"distance from {self.first}", *(c.heading for c in self.columns)]
        rows = [self._row(results, name) for name in results.timings]
        kept = [i for i, cells in enumerate(zip(*rows, strict=True)) if {*cells} != {UNKNOWN}]
        rows = [[row[i] for i in kept] for row in (headings, *rows)]
        remarks = [f"{name}: left out, {why}" for name, why in results.missing.items()]
        busy = results.busy_cores() or 0.0
        if busy > DISTURBING_CORES:
            remarks.append(
                f"disturbed: other processes kept {busy:.1f} cores busy meanwhile; measure again "
                "when the machine is quiet"
            )
        return "\n".join([titled(results.title, rows, markdown), *remarks])

    def _row(self, results: Results, name: str) -> list[str]:
        ratios, peak = results.ratios(name), results.peak_bytes(name)
        distances = [f"{k} {d:.1e}" for k, d in results.distances.get(name, {}).items()]
        return [
            name,
            f"{results.median_seconds(name):.4g}",
            f"{results.median_ratio(name):.2f}",
            UNKNOWN if name == results.ours else f"{min(ratios):.2f} to {max(ratios):.2f}",
            UNKNOWN if peak is None else f"{peak / MIB:.0f}",
            ", ".join(distances) or UNKNOWN,
            *(column.cell(results, name) for column in self.columns),
        ]


def machine_line() -> str:
    """The machine and the versions in one line."""
    facts = describe()
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; GPU: "
        f"{', '.join(facts['gpus']) or 'none, so nothing was measured on one'}; mmconvnext "
        f"{facts['git_revision']}; Python {facts['python']}, {versions}"
    )


def titled(title: str, rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Format a table below its title, the first column to the left and numbers to the right.

    Args:
        title: of the table.
        rows: the headings first.
        markdown: as GitHub's markdown, else monospaced.
    """
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    cells = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        for row in (list(map(str, row)) for row in rows)
    ]
    if markdown:
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
        return "\n".join([f"**{title}**\n", *lines])
    rule = ["-" * width for width in widths]
    return "\n".join([title, *("  ".join(row).rstrip() for row in (cells[0], rule, *cells[1:]))])


def listed(lines: Sequence[str], markdown: bool) -> str:
    """Format lines, in markdown as a list."""
    return "\n".join(f"- {line}" if markdown else line for line in lines)


def describe() -> dict[str, Any]:
    """Collect processor, memory in GiB, GPUs, and the versions of what is compared."""
    from mmconvnext.engine.provenance import git_revision, hardware

    return {
        **hardware(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := version(name))},
        "git_revision": git_revision(),
    }


def version(package: str) -> str | None:
    """The version of a package here or among the peers, or None where it is absent."""
    path = [*sys.path, *map(str, sorted(PEERS.glob("*")))]
    found = importlib.metadata.distributions(name=package, path=path)
    return next((distribution.version for distribution in found), None)


def _table_json(results: Results) -> dict[str, Any]:
    return {
        "title": results.title,
        "rounds": results.rounds,
        "threads": results.threads,
        "missing": results.missing,
        "cores_busy_with_others": results.busy_cores(),
        "reference": {
            "facts": results.reference_facts,
            "timings": [asdict(timing) for timing in results.reference],
        },
        "candidates": [_candidate_json(results, name) for name in results.timings],
    }


def _candidate_json(results: Results, name: str) -> dict[str, Any]:
    ratios = results.ratios(name)
    return {
        "name": name,
        "median_seconds": results.median_seconds(name),
        "peak_bytes": results.peak_bytes(name),
        "median_ratio": results.median_ratio(name),
        "min_ratio": min(ratios),
        "max_ratio": max(ratios),
        "distances": results.distances.get(name, {}),
        "facts": results.facts.get(name, {}),
        "timings": [asdict(timing) for timing in results.timings[name]],
    }


def _today() -> str:
    return datetime.date.today().isoformat()
