"""Tables for the terminal: AP, and what is in a data set."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from terminaltables import AsciiTable

KINDS = {"bbox": "box", "segm": "mask"}
COLUMNS = {  # in the order of pycocotools' stats
    "mAP": "AP",
    "mAP_50": "AP50",
    "mAP_75": "AP75",
    "mAP_s": "AP small",
    "mAP_m": "AP medium",
    "mAP_l": "AP large",
}
# ``classwise="kinds"`` of FastCocoMetric: names of classes may have slashes, too.
CLASSWISE_KEY = re.compile(r"(?:(.*?)/)?(bbox|segm)/(.*)_precision", re.DOTALL)
# COCO's upper limits of the area of small and medium objects, in pixels.
SIZES = {"small": 32**2, "medium": 96**2, "large": math.inf}


def format_table(
    rows: Sequence[Sequence[str]], heading: bool = True, footing: bool = False, numbers: bool = True
) -> str:
    """Format rows, maybe with lines below the first and above the last, numbers to the right."""
    table = AsciiTable([list(row) for row in rows])
    table.inner_heading_row_border, table.inner_footing_row_border = heading, footing
    if numbers:
        table.justify_columns = dict.fromkeys(range(1, len(rows[0])), "right")
    return table.table


class SetMetrics(NamedTuple):
    """The metrics of one data set.

    Attributes:
        overall: AP in 0-1 by name: ``bbox_mAP_50``.
        classwise: for ``bbox`` and ``segm`` AP in 0-1 by class, where it was asked for.
    """

    overall: dict[str, float]
    classwise: dict[str, dict[str, float]]


def by_data_set(metrics: Mapping[str, float]) -> dict[str, SetMetrics]:
    """Sort MMEngine's flat metrics by what stands before ``coco/`` in their names.

    Args:
        metrics: ``a/coco/bbox_mAP_50`` -> 0.61 is of the data set ``a``, ``coco/bbox_mAP_50`` of
            the only one, which has no name; ``a/coco/segm/person_precision`` -> 0.4 of a class.

    Returns:
        The metrics of each; -1 where there is no object, for which CocoMetric has NaN.
    """
    sets: dict[str, SetMetrics] = {}
    for key, value in metrics.items():
        if isinstance(value, float) and math.isnan(value):  # JSON has no NaN
            value = -1.0
        of_class = CLASSWISE_KEY.fullmatch(key)
        path = ((of_class[1] or "") if of_class else key.rpartition("/")[0]).split("/")
        name = "/".join(path[:-1] if path[-1] == "coco" else path)
        found = sets.setdefault(name, SetMetrics({}, {}))
        if of_class:
            found.classwise.setdefault(of_class[2], {})[of_class[3]] = value
        else:
            found.overall[key.rpartition("/")[2]] = value
    return sets


def ap_table(metrics: Mapping[str, float]) -> str:
    """Format MMEngine's metrics, in 0-1, as tables of AP in 0-100, a row for each set and kind."""
    sets = by_data_set(metrics)
    rows = [["COCO, 0-100", *COLUMNS.values()]]
    tables = []
    for name, (overall, classwise) in sets.items():
        for kind, label in KINDS.items():
            if f"{kind}_mAP" in overall:
                row = [percent(overall.get(f"{kind}_{column}")) for column in COLUMNS]
                rows.append([f"{name}: {label}" if name else label, *row])
        kinds = [kind for kind in KINDS if kind in classwise]
        if kinds:
            title = "AP of a class" + f" of {name}" * bool(name) + ", 0-100"
            table = [[title, *(KINDS[kind] for kind in kinds)]]
            for each in sorted({each for kind in kinds for each in classwise[kind]}):
                table.append([each, *(percent(classwise[kind].get(each)) for kind in kinds)])
            tables.append(format_table(table))
    return "\n".join([format_table(rows), *tables])


def dataset_table(ann_files: Mapping[str, Path]) -> str:
    """Count the images and objects of the COCO annotation files of splits, one column for each."""
    counts = {split: _count(path) for split, path in ann_files.items()}
    names = dict.fromkeys(name for count in counts.values() for name in count)
    rows = [[name, *(str(count[name]) for count in counts.values())] for name in names]
    return format_table([["", *counts], *rows])


def _count(path: Path) -> Counter[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in content["categories"]}
    with_objects = {a["image_id"] for a in content["annotations"]}
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    count = Counter({"images": len(content["images"])})
    count["images without objects"] = len(content["images"]) - len(with_objects)
    count.update(dict.fromkeys([*names.values(), *SIZES], 0))
    count.update(names[a["category_id"]] for a in objects)
    count.update(next(s for s, limit in SIZES.items() if a["area"] < limit) for a in objects)
    count["crowds"] = len(content["annotations"]) - len(objects)
    return count


def percent(value: float | None) -> str:
    """AP in 0-1 as 0-100, or a dash where there is none."""
    return "-" if value is None or not value >= 0 else f"{100 * value:.1f}"
