"""Tables for the terminal: AP, and what is in a data set."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

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
CLASS_SUFFIX = "_precision"
# CocoMetric reports the class-wise AP of boxes and masks under the same key; with a metric of its
# own for each kind, under its own prefix, both arrive.
CLASSWISE_PREFIX = "coco_{kind}"
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


def split_metrics(
    metrics: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Sort MMEngine's flat metrics.

    Args:
        metrics: for example ``coco/bbox_mAP_50`` -> 0.61 or ``coco_segm/person_precision`` -> 0.4.

    Returns:
        AP in 0-1 by name without the prefix (``bbox_mAP_50``), and for each kind (``bbox``,
        ``segm``) AP in 0-1 by class, empty unless it was asked for; -1 where there is no object.
    """
    overall: dict[str, float] = {}
    classwise: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for key, value in metrics.items():
        # CocoMetric's value of a class without objects; JSON has no NaN.
        if isinstance(value, float) and math.isnan(value):
            value = -1.0
        # The first slash: names of classes may have others.
        prefix, name = key.split("/", 1) if "/" in key else ("", key)
        kind = prefix.removeprefix(CLASSWISE_PREFIX.format(kind=""))
        if name.endswith(CLASS_SUFFIX) and kind in KINDS:
            classwise[kind][name.removesuffix(CLASS_SUFFIX)] = value
        else:
            overall[name] = value
    return overall, classwise


def ap_table(metrics: Mapping[str, float]) -> str:
    """Format MMEngine's metrics, in 0-1, as tables of AP in 0-100, a row for each kind."""
    overall, classwise = split_metrics(metrics)
    rows = [["COCO, 0-100", *COLUMNS.values()]]
    for kind, label in KINDS.items():
        if f"{kind}_mAP" in overall:
            rows.append([label, *(_percent(overall.get(f"{kind}_{c}")) for c in COLUMNS)])
    tables = [format_table(rows)]
    kinds = [kind for kind in KINDS if classwise[kind]]
    if kinds:
        rows = [["AP of a class, 0-100", *(KINDS[kind] for kind in kinds)]]
        for name in sorted({name for kind in kinds for name in classwise[kind]}):
            rows.append([name, *(_percent(classwise[kind].get(name)) for kind in kinds)])
        tables.append(format_table(rows))
    return "\n".join(tables)


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


def _percent(value: float | None) -> str:
    return "-" if value is None or not value >= 0 else f"{100 * value:.1f}"
