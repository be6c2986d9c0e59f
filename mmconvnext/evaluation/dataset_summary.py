"""What is in a data set, as a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from terminaltables import AsciiTable

# COCO's limits between small, medium and large, in pixels.
SMALL_AREA, MEDIUM_AREA = 32**2, 96**2
SIZES = ("small", "medium", "large")


def summarise(ann_files: Mapping[str, Path]) -> str:
    """Count the images and objects of COCO annotation files.

    Args:
        ann_files: the annotation file of each split.

    Returns:
        A table with one column a split.
    """
    counts = {split: _count(path) for split, path in ann_files.items()}
    names = list(dict.fromkeys(name for count in counts.values() for name in count))
    rows = [[name, *(str(count[name]) for count in counts.values())] for name in names]
    table = AsciiTable([["", *counts], *rows])
    table.justify_columns = dict.fromkeys(range(1, len(counts) + 1), "right")
    return table.table


def _count(path: Path) -> Counter[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in content["categories"]}
    with_objects = {a["image_id"] for a in content["annotations"]}
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    count = Counter({"images": len(content["images"])})
    count["images without objects"] = len(content["images"]) - len(with_objects)
    count.update(dict.fromkeys([*names.values(), *SIZES], 0))
    count.update(names[a["category_id"]] for a in objects)
    count.update(_size(a["area"]) for a in objects)
    count["crowds"] = len(content["annotations"]) - len(objects)
    return count


def _size(area: float) -> str:
    if area < SMALL_AREA:
        return "small"
    return "medium" if area < MEDIUM_AREA else "large"
