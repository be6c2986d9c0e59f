"""Tests of the same data side by side, and whether they differ by more than noise."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmconvnext.errors import DataError, UserError
from mmconvnext.evaluation import hotcoco_eval
from mmconvnext.evaluation.tables import COLUMNS, KINDS, percent
from mmconvnext.report.gallery import gallery_of
from mmconvnext.report.history import typed
from mmconvnext.report.numbers import numbers_of
from mmconvnext.report.page import colors_of, write_page
from mmconvnext.report.results import Results, read_results

ERRORS_95 = 1.96  # standard errors to each side of a difference, in an interval of 95 %
HOTCOCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # its names, in the order of COLUMNS
# settings that decide nothing
WORK = ("work_dir", "load_from", "resume", "launcher", "visualizer.name")
ABSENT = "-"
SCORE = 0.3  # from which on detections are shown at first


def compare(
    paths: Sequence[Path], samples: int = 1000, page: Path | None = None, pictures: int = 20
) -> dict[str, Any]:
    """Compare tests of the same data with the first of them.

    Args:
        paths: ``result.json`` of two tests or more that kept their detections.
        samples: of the bootstrap.
        page: where an HTML file is written.
        pictures: on which the tests differ most, in the page.

    Returns:
        All numbers, for JSON: ``runs``, ``sentences``, ``config`` and, by kind, ``AP`` and
        ``classes``: ``values`` of the tests in 0-1, and ``differences`` of all but the first to it,
        a ``value``, for ``AP`` with the ``low`` and ``high`` end of its interval.

    Raises:
        UserError: see :func:`mmconvnext.report.results.read_results`; or there are too few tests,
            samples or pictures, no kind of AP that all have, or the page cannot be written.
        DataError: they are of other images, classes, objects or settings of the metric.
    """
    if len(paths) < 2 or samples < 2:
        raise UserError(f"{len(paths)} runs, {samples} samples: a comparison is of two at least")
    names, results = _names(paths), [read_results(path) for path in paths]
    images = len(results[0].truth["images"])
    for name, other in zip(names[1:], results[1:], strict=True):
        _check_same_data(f"{name} is a test of other data than {names[0]}", results[0], other)
    kinds = [k for k in results[0].evaluations if all(k in r.evaluations for r in results)]
    if not kinds or images < 2:
        raise UserError(f"{', '.join(names)}: no kind of AP that all have, or only one picture")
    numbers = {kind: [numbers_of(each, kind, SCORE) for each in results] for kind in kinds}
    ap = {kind: ap_rows(results, kind, samples) for kind in kinds}
    content = {
        "unit": "AP in 0-1; -1 where there is no object; intervals of 95 %",
        "runs": [
            {"name": name, "checkpoint": each.result["checkpoint"], **each.result["run"]}
            for name, each in zip(names, results, strict=True)
        ],
        "images": images,
        "samples": samples,
        "sentences": [
            *_sentences(names, ap),
            f"Noise is which {images} pictures are tested on (paired bootstrap, {samples} samples),"
            " without that of training again",
        ],
        "AP": ap,
        "classes": {kind: _class_rows(each) for kind, each in numbers.items()},
        "config": _config_differences(results),
    }
    if page:
        _write_page(page, content, results, numbers[kinds[0]], pictures)
    return content


def tables(content: Mapping[str, Any]) -> Iterator[list[list[str]]]:
    """Rows of text, of each kind: AP of everything, then of classes; the first is a heading."""
    first, *others = (run["name"] for run in content["runs"])
    columns = [first, *(text for name in others for text in (name, "difference"))]
    for kind, rows in content["AP"].items():
        title = f"{KINDS[kind]} AP, 0-100"
        yield [[title, *columns], *([COLUMNS[key], *_cells(row)] for key, row in rows.items())]
        of_classes = content["classes"][kind]
        title += ", of classes (objects)"
        named = ([f"{row['name']} ({row['objects']})", *_cells(row)] for row in of_classes)
        yield [[title, *columns], *named]


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    for value, difference in zip(row["values"], [{}, *row["differences"]], strict=True):
        yield percent(value)
        if difference is None:
            yield ABSENT
        elif difference:
            text = "{:+.1f}" if len(difference) == 1 else "{:+.1f} ({:+.1f} to {:+.1f})"
            yield text.format(*(100 * each for each in difference.values()))


def _sentences(names: Sequence[str], ap: Mapping[str, Mapping]) -> Iterator[str]:
    """Say of each test and kind whether its AP differs from the first's by more than noise."""
    for kind, rows in ap.items():
        for name, found in zip(names[1:], rows["mAP"]["differences"], strict=True):
            if found:
                value, low, high = (100 * each for each in found.values())
                better = f"more than noise: {name} is {'better' if value > 0 else 'worse'}"
                verdict = "no more than noise" if low <= 0 <= high else better
                span = f"{value:+.1f} {KINDS[kind]} AP ({low:+.1f} to {high:+.1f}, 95 % interval)"
                yield f"{name} against {names[0]}: {span}: {verdict}"


def ap_rows(results: Sequence[Results], kind: str, samples: int) -> dict[str, dict[str, list]]:
    """AP of each test and its difference to the first's, by the name of the metric.

    hotcoco draws n of n pictures with replacement and counts those that come twice once: a sample
    without some 37 % of them, whose AP spreads less than that of n pictures, by the square root
    of 0.37 / 0.63 (Politis, Romano and Wolf, Subsampling, 1999).
    """
    import hotcoco

    first, *others = (each.evaluations[kind] for each in results)
    found = [hotcoco.compare(first, each, n_bootstrap=samples) for each in others]
    left_out = (1 - 1 / found[0]["num_images"]) ** found[0]["num_images"]
    margin = ERRORS_95 * math.sqrt((1 - left_out) / left_out)
    stats = [hotcoco_eval.summarize(each).stats for each in (first, *others)]
    rows = {}
    for name, theirs, values in zip(COLUMNS, HOTCOCO, zip(*stats, strict=True), strict=False):
        differences = []
        for value, intervals in zip(values[1:], found, strict=True):
            more, half = value - values[0], margin * intervals["ci"][theirs]["std_err"]
            shown = round(value, 3) - round(values[0], 3)
            ends = {"value": shown, "low": more - half, "high": more + half}
            there = min(value, values[0]) > -1
            differences.append({k: _digits(v) for k, v in ends.items()} if there else None)
        rows[name] = {"values": [*map(_digits, values)], "differences": differences}
    return rows


def _class_rows(numbers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """AP of the classes in each test and the differences, the largest first."""
    rows = []
    for of_class in zip(*(each["classes"] for each in numbers), strict=True):
        base, *others = values = [row["AP"] for row in of_class]
        more = [{"value": _digits(v - base)} if min(v, base) > -1 else None for v in others]
        same = {key: of_class[0][key] for key in ("name", "objects")}
        rows.append({**same, "values": values, "differences": more})
    rows.sort(key=lambda r: -max((abs(d["value"]) for d in r["differences"] if d), default=0))
    return rows


def _digits(value: float) -> float:
    """To three digits, as the metric rounds, without a minus before 0."""
    return float(round(value, 3)) + 0.0


def _config_differences(results: Sequence[Results]) -> dict[str, list[str]]:
    """The settings that differ: values in each test, as Python, by the dotted name."""
    settings = [dict(_flat(each.config.to_dict())) for each in results]
    rows = {
        key: [each.get(key, ABSENT) for each in settings]
        for key in dict.fromkeys(key for each in settings for key in each)
        if key not in WORK and not key.endswith("outfile_prefix")
    }
    return {key: values for key, values in rows.items() if len({*values}) > 1}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """A config's values by their dotted names; lists of numbers and names are one value."""
    parts = list(value.items()) if isinstance(value, Mapping) else []
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        parts = list(enumerate(value))
    for name, inner in parts:
        yield from _flat(inner, f"{key}.{name}" if key else str(name))
    if not parts:
        yield key, repr(value)


def _check_same_data(says: str, first: Results, other: Results) -> None:
    """Refuse tests whose images, classes, objects or settings of the metric differ."""

    def parts(results: Results) -> Iterator[tuple[str, dict]]:
        params = next(iter(results.evaluations.values())).params
        yield "image", {e["id"]: e["file_name"] for e in results.truth["images"]}
        yield "category", {e["id"]: e["name"] for e in results.classes}
        yield "annotation", {e["id"]: e for e in results.truth["annotations"]}
        yield "metric's", {key: getattr(params, key) for key in ("iouThrs", "maxDets")}

    for (what, one), (_, two) in zip(parts(first), parts(other), strict=True):
        for key in (*one, *two) if one != two else ():
            values = [reprlib.repr(each.get(key, "absent")) for each in (two, one)]
            if one.get(key) != two.get(key):
                raise DataError(
                    f"{says}: {what} {key} is {' in it and '.join(values)} in the other"
                )


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of results by their folders, numbered where two have the same."""
    folders = [path.resolve().parent for path in paths]
    names = [(f.parent if f.name == "report" else f).name for f in folders]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names, 1)]


def _write_page(
    out: Path, content: Mapping, results: Sequence[Results], numbers: list[dict], pictures: int
) -> None:
    """Write one HTML file; ``numbers`` are those of the first kind."""
    names, kind = [run["name"] for run in content["runs"]], next(iter(content["AP"]))
    chosen = most_different(names, [each["images"] for each in numbers], pictures)
    galleries = [
        gallery_of(each, kind, of_kind, pictures, chosen)
        for each, of_kind in zip(results, numbers, strict=True)
    ]
    same = zip(*galleries, strict=True)
    shown = [{**each[0], "runs": [{**run, "jpeg": ""} for run in each]} for each in same]
    data = {
        "runs": names,
        "classes": [category["name"] for category in results[0].classes],
        "colors": colors_of(results[0]),
        "gallery": shown,
        "score": SCORE,
    }
    commands = [typed(run["command"]) for run in content["runs"]]
    facts = {"names": names, "kind": KINDS[kind], "commands": commands, "tables": tables(content)}
    write_page(out, "compare", data, {**content, **facts})


def most_different(
    names: Sequence[str], images: Sequence[Mapping[int, Mapping[str, Any]]], most: int
) -> dict[int, str]:
    """Pictures by how much their own AP differs from the first test's: which test is better."""
    found = []
    for image, first in images[0].items():
        values = [of.get(image, first)["ap"] - first["ap"] for of in images]
        more, name = max(zip(values, names, strict=True), key=lambda pair: abs(pair[0]))
        if more:
            found.append((-abs(more), image, f"{name} is {'better' if more > 0 else 'worse'}"))
    return {image: why for _, image, why in sorted(found)[:most]}
