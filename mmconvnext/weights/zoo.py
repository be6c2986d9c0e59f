"""The zoo: ConvNeXt weights by name, where they are, how they were trained, who may use them.

``zoo.csv`` has a row for each file of the official code, of timm and of torchvision that this
backbone can load; left out are timm's models with an overlapping stem (``_ols``), RMS norm
(``_rms``) or another eps (``xxlarge``). Whatever lies in several places has several sources.
``published.csv`` is the paper's tables 1 and 2, and the figures of its peers.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from textwrap import wrap

TABLE = Path(__file__).with_name("zoo.csv")
PUBLISHED = Path(__file__).with_name("published.csv")
# Columns of the terminal.
PRETRAINING_WIDTH, LICENCE_WIDTH = 28, 16


@dataclass(frozen=True)
class ZooEntry:
    """Weights of the zoo."""

    name: str  # the file's without ending, or what its library calls it; no two have the same
    arch: str  # a key of `VARIANTS`
    version: int  # 1, or 2 for GRN
    # Top-1 on ImageNet-1K in per cent as published, and where that was. V1's `*_22k_1k_*` and all
    # of V2's `*_22k_*` were fine-tuned on ImageNet-1K.
    accuracy: float | None
    accuracy_source: str | None
    pretraining: str  # on what and how, in words
    licence: str  # the publisher's
    sources: tuple[str, ...]  # each as `load_pretrained` accepts it; the publisher's own is first

    def matches(self, pattern: str) -> bool:
        """Whether a text is a part of any of the facts, in upper or lower case."""
        facts = (self.name, f"{self.arch} V{self.version}", self.pretraining, self.licence)
        return pattern.lower() in "\n".join((*facts, *self.sources)).lower()


def read_zoo() -> list[ZooEntry]:
    """Read the table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["version"] = int(row["version"])
        row["accuracy"] = float(row["accuracy"]) if row["accuracy"] else None
        row["accuracy_source"] = row["accuracy_source"] or None
        row["sources"] = tuple(row["sources"].split())
    return [ZooEntry(**row) for row in rows]


def zoo_table(entries: Iterable[ZooEntry]) -> str:
    """Format entries for 120 columns: facts, long ones wrapped, and a line for each source."""
    rows = [[["name, sources"], ["arch"], ["top-1"], ["pretraining"], ["licence"]]]
    below = [[]]
    for entry in entries:
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.1f}%"
        pretraining = wrap(entry.pretraining, PRETRAINING_WIDTH, break_on_hyphens=False)
        facts = [[entry.name], [f"{entry.arch} V{entry.version}"], [accuracy], pretraining]
        rows.append([*facts, wrap(entry.licence, LICENCE_WIDTH)])
        below.append([f"  {source}" for source in entry.sources])
    widths = [max(map(len, chain(*column))) for column in zip(*rows, strict=True)]
    below[0].append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    lines = []
    for row, more in zip(rows, below, strict=True):
        for cells in zip_longest(*row, fillvalue=""):
            lines.append("  ".join(map(str.ljust, cells, widths)).rstrip())
        lines += more
    return "\n".join(lines)


def published_table(pattern: str = "") -> str:
    """Format what is published of models whose name has a text in it; "" where none has."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        found = [row for row in list(csv.reader(file))[1:] if pattern.lower() in row[0].lower()]
    form = "{:<16} {:<11} {:>6} {:>6} {:>8} {:>8}".format
    head = form("published", "pretraining", "pixels", "top-1", "params", "FLOPs")
    rows = [form(*row[:3], f"{row[3]}%", f"{row[4]} M", f"{row[5]} G") for row in found]
    return "\n".join([head, "-" * len(head), *rows]) if rows else ""
