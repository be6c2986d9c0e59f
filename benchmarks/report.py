"""What a comparison brought, as text for people and as JSON for programs."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from terminaltables import GithubFlavoredMarkdownTable

from benchmarks.comparison import Results
from benchmarks.worker import PEERS
from mmconvnext.engine.provenance import PACKAGES, git_revision, hardware
from mmconvnext.evaluation.tables import format_table

MIB = 2**20
UNKNOWN = "-"
DISTURBING_CORES = 0.1  # busy with other processes


class Column(NamedTuple):
    """A column beside those that every table has: its heading, and the cell of a candidate."""

    heading: str
    cell: Callable[[Results, str], str]


def fact_column(
    heading: str, fact: str, scale: float = 1.0, form: str = ".3g", per_second: bool = False
) -> Column:
    """Make a column of a fact, divided by a scale, and by the median time; some may lack it."""

    def cell(results: Results, name: str) -> str:
        value = results.facts[name].get(fact)
        if value is None:
            return UNKNOWN
        seconds = results.median_seconds(name) if per_second else 1.0
        return f"{value / scale / seconds:{form}}"

    return Column(heading, cell)


@dataclass(frozen=True)
class Report:
    """The tables of one call of the tool, and under which conditions they came about."""

    tables: Sequence[Results]
    columns: Sequence[Column] = ()  # of every table; where no candidate has one, it is left out
    notes: Sequence[str] = ()  # on how to read the tables
    first: str = "ours"  # what the first row is; empty where rows are not compared with it
    # rows of a table before the others, under its title; headings first
    summary: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # more for JSON

    def text(self, markdown: bool = False) -> str:
        """Format tables, notes and conditions, for a terminal or as GitHub's markdown."""
        blocks = [_titled(title, rows, markdown) for title, rows in self.summary.items()]
        blocks += [self._table(results, markdown) for results in self.tables]
        lines, how = [*self.notes], ""
        if self.tables:
            how = f"{self.tables[0].threads} threads each, {self.tables[0].rounds} rounds; "
            if self.first:
                lines.append(
                    f"time / {self.first}: median over the rounds of the time divided by that of "
                    f"{self.first} in the same round"
                )
        lines.append(f"{how}{datetime.date.today()}; {_machine_line()}")
        return "\n\n".join([*blocks, "\n".join("- " * markdown + line for line in lines)])

    def to_json(self) -> dict[str, Any]:
        """Collect everything that was measured; times in seconds, memory in bytes."""
        return {
            "conditions": {**describe(), "date": f"{datetime.date.today()}"},
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
        return "\n".join([_titled(results.title, rows, markdown), *remarks])

    def _row(self, results: Results, name: str) -> list[str]:
        ratios, peak = results.ratios(name), results.peak_bytes(name)
        spread = UNKNOWN if name == results.ours else f"{min(ratios):.2f} to {max(ratios):.2f}"
        distances = [f"{k} {d:.1e}" for k, d in results.distances.get(name, {}).items()]
        return [
            name,
            f"{results.median_seconds(name):.4g}",
            *([f"{results.median_ratio(name):.2f}", spread] if self.first else [UNKNOWN] * 2),
            UNKNOWN if peak is None else f"{peak / MIB:.0f}",
            ", ".join(distances) or UNKNOWN,
            *(column.cell(results, name) for column in self.columns),
        ]


def describe() -> dict[str, Any]:
    """Collect processor, memory in GiB, GPUs, and the versions of what is compared."""
    packages = (*PACKAGES, "transformers", "mmpretrain")
    return {
        **hardware(),
        "python": platform.python_version(),
        "packages": {name: v for name in packages if (v := version(name))},
        "git_revision": git_revision(),
    }


def version(package: str) -> str | None:
    """The version of a package here or among the peers, or None where it is absent."""
    path = [*sys.path, *map(str, sorted(PEERS.glob("*")))]
    found = importlib.metadata.distributions(name=package, path=path)
    return next((distribution.version for distribution in found), None)


def _machine_line() -> str:
    facts = describe()
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; GPU: "
        f"{', '.join(facts['gpus']) or 'none, so nothing was measured on one'}; mmconvnext "
        f"{facts['git_revision']}; Python {facts['python']}, {versions}"
    )


def _titled(title: str, rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Format a table below its title, numbers to the right; the first of the rows has headings."""
    if not markdown:
        return f"{title}\n{format_table(rows)}"
    table = GithubFlavoredMarkdownTable([list(row) for row in rows])
    table.justify_columns = dict.fromkeys(range(1, len(rows[0])), "right")
    return f"**{title}**\n\n{table.table}"


def _table_json(results: Results) -> dict[str, Any]:
    candidates = []
    for name, timings in results.timings.items():
        ratios = results.ratios(name)
        measured = {
            "name": name,
            "median_seconds": results.median_seconds(name),
            "peak_bytes": results.peak_bytes(name),
            "median_ratio": results.median_ratio(name),
            "min_ratio": min(ratios),
            "max_ratio": max(ratios),
        }
        found = {key: getattr(results, key).get(name, {}) for key in ("distances", "facts")}
        candidates.append({**measured, **found, "timings": [each._asdict() for each in timings]})
    named = {key: getattr(results, key) for key in ("title", "rounds", "threads", "missing")}
    return {**named, "cores_busy_with_others": results.busy_cores(), "candidates": candidates}
