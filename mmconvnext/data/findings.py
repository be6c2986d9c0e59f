"""What a check of annotations found: errors, repairs and notes, counted and with examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mmconvnext.data.faults import FAULTS

EXAMPLES = 3  # that a line names; the JSON file has all


@dataclass
class Finding:
    """Faults of one kind in one file.

    Attributes:
        kind: a short name, for example ``box outside``.
        severity: ``error``, ``repair``, ``fill`` or ``note``, see :mod:`mmconvnext.data.faults`.
        text: what is wrong and what was done, or what to do.
        records: where, each in words: ``annotation 7 of image 3``.
    """

    kind: str
    severity: str
    text: str
    records: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """For example ``box outside: object left out (2: annotation 7 of image 3, ...)``."""
        if not self.records:
            return f"{self.kind}: {self.text}"
        shown = ", ".join(self.records[:EXAMPLES]) + ", ..." * (len(self.records) > EXAMPLES)
        return f"{self.kind}: {self.text} ({len(self.records)}: {shown})"


class Findings:
    """The findings of one annotation file, one for each kind, in the order of their discovery."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Finding] = {}
        self.repaired_objects: set[int] = set()  # their places in the file

    def add(
        self, kind: str, record: str = "", place: int | None = None, text: str | None = None
    ) -> None:
        """Count a fault.

        Args:
            kind: a key of :data:`mmconvnext.data.faults.FAULTS`.
            record: where it is.
            place: of the object in the file.
            text: in place of the usual one.
        """
        severity, usual = FAULTS[kind]
        finding = self._by_kind.setdefault(kind, Finding(kind, severity, text or usual))
        if record:
            finding.records.append(record)
        if severity == "repair" and place is not None:
            self.repaired_objects.add(place)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._by_kind.values())

    def of(self, *severities: str) -> list[Finding]:
        """Those of some severities."""
        return [finding for finding in self if finding.severity in severities]
