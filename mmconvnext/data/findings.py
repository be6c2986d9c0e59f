"""Every kind of fault that the checks know, and what they found in a file, counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# The file is refused.
ERRORS = {
    "not COCO": "it is no COCO file",
    "no objects": "nothing to train on or to evaluate with",
    "only crowds": "all objects have iscrowd=1, are ignored in training and not in AP: set 0",
    "boxes of corners": "(x1, y1, x2, y2); COCO's are (x, y, width, height): convert the file",
    "boxes unlike the masks": "most overlap with their masks by less than half: numbers in another "
    "order, centres for corners, or another size of picture; correct the file",
    # images
    "image id": "it is neither a whole number nor text",
    "one image id": "of two images, whose objects cannot be told apart: give each its own id",
    "one file name": "of two images: merge them, or remove one",
    "file name": "it is no text",
    "URL as file name": "download the pictures and name the files",
    "file name outside": "it leaves the folder of the pictures; make it relative to data_prefix",
    "link outside": "the file is a link out of the folder of the pictures; if that is wanted: "
    "data_checks=dict(allow=['link outside'])",
    "image size": "absent or no whole number of pixels, and no picture was read to take it from",
    "width and height swapped": "objects would be drawn at wrong places; correct the file",
    "another size than the picture's": "objects would be drawn at wrong places; correct the file",
    # categories
    "category": "a category has a number as its id and a text as its name",
    "one category id": "of two categories: give each its own id",
    "one category name": "of two categories: merge them, or give each its own name",
    "class twice": "in metainfo.classes",
    "other classes": "metainfo.classes has none of the file's categories",
    "misspelt class": "a name in metainfo.classes is not the file's; write both alike",
    # pictures
    "broken picture": "replace or remove it",
    "deep picture": "more than 8 bits a channel, which MMDetection cuts to 8; convert the pictures",
    "mixed EXIF orientation": "some annotations are of the turned picture and some of the stored "
    "one; remove the tag from the files, turning their pixels where the size says so",
}
# What the file says is changed, or an object left out.
REPAIRS = {
    "unknown image": "no image has this id; object left out",
    "unknown category": "no category has this id; object left out",
    "no box": "bbox is absent or not four finite numbers; taken from the mask",
    "no box, no mask": "neither bbox nor mask says where the object is; left out",
    "box of negative size": "width or height below 0; corners swapped",
    "box under one pixel": "nothing can be learned or found there; object left out",
    "box outside": "the box does not touch the picture; object left out",
    "box over the border": "cut at the border of the picture",
    "no mask": "segmentation is absent or empty; object left out",
    "broken polygon": "an odd number of coordinates, fewer than three points, or no finite "
    "numbers; removed, and so is an object without another",
    "polygon outside": "coordinates beyond the picture; moved to its border",
    "run lengths of another size": "not of the picture's height and width; left out",
    "broken run lengths": "they do not add up to the picture's pixels; left out",
    "mask without a pixel": "thinner than a pixel; object left out",
}
# What follows from the rest of the file is added.
FILLS = {
    "text encoding": "not UTF-8, or with a mark for it; read as it is, and written as UTF-8",
    "image ids": "not all are whole numbers; renumbered from 1",
    "ids of another type": "as text or with a fraction; read as whole numbers",
    "annotation ids": "absent, used twice or no number above 0; all are renumbered from 1",
    "order of categories": "labels are numbered in the order of the classes, not of the file",
    "backslashes in file names": "which are Windows'; read as slashes",
    "no image size": "absent or no whole number of pixels; taken from the pictures",
    "image sizes of another type": "as text or with a fraction; read as whole numbers",
    "numbers as text": "coordinates stand as strings; read as numbers",
    "flat polygon": "the coordinates of one polygon without its own list; wrapped",
    "polygon of points": "[x, y] points in place of a flat list; flattened",
    "no area": "absent, not above 0 or no number; computed",
    "no iscrowd": "absent or no number; read as 0 or 1",
    "ignore": "ignore=1 is unknown to the metric; made iscrowd=1",
}
# Nothing is changed.
NOTES = {
    "class without category": "the file has no such category; no object has this label",
    "category without class": "it is not in metainfo.classes; its objects are left out",
    "area unlike the mask's": "AP by size goes by area; it was kept",
    "mask unlike the box": "box and mask overlap by less than half; both were kept",
    "more than 100 objects": "COCO's AP counts 100 detections in a picture: it cannot be 100 here",
    "very long picture": "resized, its short side has few pixels",
    "picture of other colours": "loaded as 8-bit RGB, transparency is dropped",
    "turned picture": "upright by EXIF orientation, as the sizes in the file say or do not deny",
    "EXIF orientation": "not applied: the sizes in the file are those of the stored pixels",
}
BY_SEVERITY = {"error": ERRORS, "repair": REPAIRS, "fill": FILLS, "note": NOTES}
FAULTS = {kind: (name, text) for name, texts in BY_SEVERITY.items() for kind, text in texts.items()}
EXAMPLES = 3  # that a line names; the JSON file has all


@dataclass
class Finding:
    """Faults of one kind in one file, and where they are, in words: ``annotation 7 of image 3``."""

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


@dataclass
class Findings:
    """What the check of one annotation file found."""

    by_kind: dict[str, Finding] = field(default_factory=dict)  # in the order of discovery
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, 2, ...
    turn: bool = True  # whether pictures are turned as EXIF says
    images: int = 0  # how many the file has
    objects: int = 0
    repaired: int = 0  # how many of them were changed or left out
    path: str = ""  # of the file to use: the given one, or a repaired copy

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Findings:
        """Read what ``dataclasses.asdict`` wrote."""
        by_kind = {kind: Finding(**each) for kind, each in content["by_kind"].items()}
        return cls(**{**content, "by_kind": by_kind, "classes": tuple(content["classes"])})

    def add(self, kind: str, record: str = "", text: str | None = None) -> None:
        """Count a fault of :data:`FAULTS`; ``text`` is said of the first in place of the usual."""
        severity, usual = FAULTS[kind]
        finding = self.by_kind.setdefault(kind, Finding(kind, severity, text or usual))
        finding.records += [record] * bool(record)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.by_kind.values())

    def of(self, *severities: str) -> list[Finding]:
        """Those of some severities."""
        return [finding for finding in self if finding.severity in severities]
