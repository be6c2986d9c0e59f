"""A report as one HTML file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from mmdet.visualization.palette import get_palette

from mmconvnext.data.paths import write_whole
from mmconvnext.errors import UserError
from mmconvnext.evaluation.tables import COLUMNS, KINDS
from mmconvnext.report import history
from mmconvnext.report.gallery import gallery_of
from mmconvnext.report.numbers import numbers_of
from mmconvnext.report.results import Results, read_results

COCO_CLASSES = 80
FOLDER = Path(__file__).parent / "template"
# Of the numbers of a kind, what only the choice of pictures needs.
NOT_SHOWN = ("images", "found", "wanted")
SECTIONS = {
    "ap": "AP", "curves": "Training", "pictures": "Pictures", "classes": "Classes",
    "precision": "Precision and recall", "errors": "Errors", "confusion": "Confusion",
    "calibration": "Calibration", "slices": "Slices", "labels": "Label errors",
    "data": "Data checks", "run": "Config and versions",
}  # fmt: skip


def write_report(
    result: Path, out: Path | None = None, pictures: int = 60, score: float = 0.3
) -> Path:
    """Write the report of a test.

    Args:
        result: ``result.json`` of a test that kept its detections.
        out: file to write; by default ``report.html`` beside the result.
        pictures: in the gallery, at most.
        score: from which on a detection counts in the confusion matrix, as a label error, and is
            shown at first.

    Returns:
        The file.

    Raises:
        UserError: it cannot be written; or see :func:`mmconvnext.report.results.read_results`.
    """
    results = read_results(result)
    kinds = {kind: numbers_of(results, kind, score) for kind in results.tables}
    first = next(iter(kinds))
    gallery = gallery_of(results, first, kinds[first], pictures)
    names = [category["name"] for category in results.classes]
    folder = Path(results.result["checkpoint"]).parent
    data = {
        "kinds": {k: {n: v for n, v in found.items() if n not in NOT_SHOWN}
                  for k, found in kinds.items()},
        "classes": names,
        "colors": colors_of(results),
        "gallery": gallery,
        "curves": history.curves_of(folder),
        "score": score,
    }  # fmt: skip
    run = results.result["run"]
    facts = {
        "title": Path(run["config"]).stem,
        "images": len(results.truth["images"]),
        "classes": len(names),
        "kinds": list(kinds),
        "gallery": len(gallery),
        "score": score,
        "sections": SECTIONS,
        "objects": sum(row["objects"] for row in kinds[first]["classes"]),
        "labels": {"segm": "Masks", "bbox": "Boxes"},
        "rows": {KINDS[kind]: found["ap"] for kind, found in kinds.items()},
        "columns": COLUMNS,
        "published": history.published_line(run["config"], len(names)),
        "result": results.result,
        "run": run,
        "runs": list(history.runs_of(folder)),
        "command": history.typed(run["command"]),
        "changes": history.config_difference(run["config"], results.config),
        "findings": history.findings_of(result.parent) or history.findings_of(folder),
    }
    out = out or result.with_name("report.html")
    write_page(out, "report", data, facts)
    return out


def colors_of(results: Results) -> list[str]:
    """A colour of each class, as CSS has it: those of the config, of COCO, or some."""
    number = len(results.classes)
    palette = results.palette or ("coco" if number <= COCO_CLASSES else "random")
    return [f"rgb{tuple(color)}" for color in get_palette(palette, number)]


def write_page(out: Path, page: str, data: dict[str, Any], facts: dict[str, Any]) -> None:
    """Fill the template of a page: what the scripts draw, and what it says as it is."""
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    # a name such as </script> must not end the element that the data is in
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    css, common, own = (
        (FOLDER / name).read_text(encoding="utf-8")
        for name in ("report.css", "common.js", f"{page}.js")
    )
    template = environment.get_template(f"{page}.html")
    text = template.render(page=page, data=text, css=css, js=common + own, **facts)
    try:
        write_whole(out, text)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
