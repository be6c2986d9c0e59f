"""What a comparison brought, as text for people and as JSON for programs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import Results
from benchmarks.roofline import describe
from mmconvnext.errors import UserError

MIB = 2**20
UNKNOWN = "-"
DISTURBING_CORES = 0.1  # busy with other processes


@dataclass(frozen=True)
class Column:
    """A column of a table beside those that every table has.

    Attributes:
        heading: what stands above it, with the unit.
        cell: what stands in the row of a candidate, by its name.
    """

    heading: str
    cell: Callable[[Results, str], str]


@dataclass(frozen=True)
class Report:
    """The tables of one call of the tool, and under which conditions they came about.

    Attributes:
        tables: one for each comparison.
        columns: more columns of every table.
        notes: lines below the tables, on how to read them.
    """

    tables: Sequence[Results]
    columns: Sequence[Column] = ()
    notes: Sequence[str] = ()

    def text(self, markdown: bool = False) -> str:
        """Format tables, notes and conditions, monospaced or as GitHub's markdown."""
        blocks = [self._table(results, markdown) for results in self.tables]
        lines = [*self.notes, *self._conditions()]
        bullet = "- " if markdown else ""
        return "\n\n".join([*blocks, "\n".join(f"{bullet}{line}" for line in lines)])

    def to_json(self) -> dict[str, Any]:
        """Collect everything that was measured; times in seconds, memory in bytes."""
        return {
            "conditions": {**describe(), "date": _today()},
            "notes": list(self.notes),
            "tables": [_table_json(results) for results in self.tables],
        }

    def _table(self, results: Results, markdown: bool) -> str:
        headings = ["", "seconds", "time / ours", "spread", "peak MiB", "distance from ours"]
        headings += [column.heading for column in self.columns]
        rows = [self._row(results, name) for name in results.timings]
        table = format_rows([headings, *rows], markdown)
        remarks = [f"{name}: left out, {why}" for name, why in results.missing.items()]
        busy = results.busy_cores() or 0.0
        if busy > DISTURBING_CORES:
            remarks.append(
                f"disturbed: other processes kept {busy:.1f} cores busy meanwhile; measure again "
                "when the machine is quiet"
            )
        title = f"**{results.title}**\n" if markdown else results.title
        return "\n".join([title, table, *remarks])

    def _row(self, results: Results, name: str) -> list[str]:
        ratios = sorted(results.ratios(name))
        peak = results.peak_bytes(name)
        is_ours = name == results.ours
        return [
            name,
            f"{results.median_seconds(name):.4g}",
            f"{results.median_ratio(name):.2f}",
            UNKNOWN if is_ours else f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            UNKNOWN if peak is None else f"{peak / MIB:.0f}",
            _distances(results.distances.get(name, {})),
            *(column.cell(results, name) for column in self.columns),
        ]

    def _conditions(self) -> list[str]:
        machine = describe()
        versions = ", ".join(f"{name} {v}" for name, v in machine["packages"].items())
        rounds = sorted({results.rounds for results in self.tables})
        threads = sorted({results.threads for results in self.tables})
        return [
            "time / ours: median over the rounds of the time divided by ours in the same round",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
            f"GPU: {', '.join(machine['gpus']) or 'none, so nothing was measured on one'}",
            f"{_shown(threads)} threads each, {_shown(rounds)} rounds; {_today()}; "
            f"mmconvnext {machine['git_revision']}; Python {machine['python']}, {versions}",
        ]


def format_rows(rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Align rows in columns, the first to the left and numbers to the right.

    Args:
        rows: the headings first.
        markdown: as GitHub's markdown, else monospaced.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if markdown:
        aligned = ["| " + " | ".join(_aligned(row, widths)) + " |" for row in rows]
        rule = "| " + " | ".join(_rule(i, width) for i, width in enumerate(widths)) + " |"
    else:
        aligned = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned[0], rule, *aligned[1:]])


def write_json(content: dict[str, Any], path: str) -> None:
    """Write what ``to_json()`` gave.

    Args:
        content: of JSON's types.
        path: of the file; missing folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


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


def _distances(distances: dict[str, float]) -> str:
    if len(distances) == 1:
        (distance,) = distances.values()
        return f"{distance:.1e}"
    return ", ".join(f"{name} {distance:.1e}" for name, distance in distances.items()) or UNKNOWN


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def _rule(index: int, width: int) -> str:
    # GitHub wants at least three characters in a rule.
    return "-" * max(width, 3) if index == 0 else "-" * max(width - 1, 2) + ":"


def _shown(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _today() -> str:
    return datetime.date.today().isoformat()
