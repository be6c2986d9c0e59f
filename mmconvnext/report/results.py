"""What a report is made from: detections and ground truth of one test, compared by hotcoco."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.config import Config
from numpy.typing import NDArray

from mmconvnext.data.paths import metrics_of
from mmconvnext.errors import UserError
from mmconvnext.evaluation import hotcoco_eval
from mmconvnext.evaluation.coco_metric import NAMES, is_coco_metric

if TYPE_CHECKING:
    import hotcoco

KINDS = ("segm", "bbox")


@dataclass
class Results:
    """A test, as it is shown.

    Attributes:
        result: the content of ``result.json``.
        config: with everything resolved, as the test used it.
        truth: content of the annotation file.
        pictures: folder of them.
        tables: of ``segm`` and ``bbox``, as :func:`hotcoco_eval.load_detections` takes them.
        masks: of the same, run lengths, for ``segm``.
        evaluations: of the same, evaluated and accumulated.
    """

    result: dict[str, Any]
    config: Config
    truth: dict[str, Any]
    pictures: Path
    tables: dict[str, NDArray]
    masks: dict[str, list[dict[str, Any]] | None]
    evaluations: dict[str, hotcoco.COCOeval]

    def entries(self, kind: str, rows: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Some of the detections, as in COCO's files of results, with the ids of hotcoco."""
        for row in rows:
            image, *box, score, category = self.tables[kind][row].tolist()
            ids = {"id": int(row) + 1, "image_id": int(image), "category_id": int(category)}
            mask = {"segmentation": self.masks[kind][row]} if self.masks[kind] else {}
            yield {**ids, "bbox": box, "score": score, **mask}

    @property
    def palette(self) -> Sequence | str | None:
        """Of the config's ``metainfo``."""
        return (self.config.test_dataloader.dataset.get("metainfo") or {}).get("palette")

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The categories that count, in the order of their ids, which is that of the arrays."""
        used = set(next(iter(self.evaluations.values())).params.catIds)
        return sorted((c for c in self.truth["categories"] if c["id"] in used), key=_id)


def _id(entry: Mapping[str, Any]) -> int:
    return entry["id"]


def read_results(path: Path) -> Results:
    """Read ``result.json`` of a test that kept its detections, and compare them again.

    The numbers are those of the test to the last bit.

    Raises:
        UserError: the file, or one that it names, is missing or of another kind; nothing was
            detected; the numbers are not those of the test any more; or the ground truth is such
            as only pycocotools takes.
    """
    if find_spec("hotcoco") is None:
        raise UserError("a report needs hotcoco: pip install 'mmconvnext[fast]'")
    result = _read(path)
    sources = result.get("detections") if isinstance(result, dict) else None
    if not sources:
        raise UserError(
            f"{path} is no result of a test that kept its detections: mmconvnext test CONFIG "
            "CHECKPOINT --report, or mmconvnext report with the work folder of a training"
        )
    pictures = Path(sources["pictures"])
    for place in (pictures, Path(sources["config"])):
        if not place.exists():
            raise UserError(f"{place}, which {path} names, is not there any more: test again")
    truth = _read(Path(sources["ann_file"]))
    config = Config.fromfile(sources["config"], lazy_import=False)
    settings = next(filter(is_coco_metric, metrics_of(config.test_evaluator)))
    wanted = np.atleast_1d(settings.get("metric", "bbox"))
    files = {k: Path(sources["files"][k]) for k in KINDS if k in sources["files"] and k in wanted}
    detections = {kind: _read_detections(kind, file) for kind, file in files.items()}
    tables = {kind: table for kind, (table, _) in detections.items() if len(table)}
    masks = {kind: detections[kind][1] for kind in tables}
    if not tables:
        raise UserError(f"{path}: nothing was detected, so that there is nothing to show")
    dataset = config.test_dataloader.dataset
    classes = (dataset.get("metainfo") or {}).get("classes")
    evaluations = _evaluate(truth, tables, masks, settings, classes)
    _check_unchanged(path, result.get("metrics", {}), evaluations)
    return Results(result, config, truth, pictures, tables, masks, evaluations)


def _check_unchanged(
    path: Path, metrics: Mapping[str, float], evaluations: Mapping[str, hotcoco.COCOeval]
) -> None:
    """Refuse detections or annotations that were written again after the test."""
    for kind, evaluation in evaluations.items():
        for name, value in zip(NAMES, hotcoco_eval.summarize(evaluation).stats, strict=True):
            now, was = float(round(value, 3)), metrics.get(f"{kind}_{name}")
            if was not in (None, now):
                raise UserError(
                    f"{path}: {kind}_{name} was {was} in the test, and is {now} of the files that "
                    "it names, which were changed since: test again, into a --work-dir of its own"
                )


def _read_detections(kind: str, path: Path) -> tuple[NDArray, list[dict[str, Any]] | None]:
    """Detections in a COCO file of results, or of the faster one that a test writes after it."""
    kept = path.with_suffix(".npz")
    if kept.is_file() and path.is_file() and kept.stat().st_mtime >= path.stat().st_mtime:
        return hotcoco_eval.read_detections(kept)
    found = _read(path)
    return as_table(found), [e["segmentation"] for e in found] if kind == "segm" else None


def _evaluate(
    truth: dict[str, Any],
    tables: Mapping[str, NDArray],
    masks: Mapping[str, list | None],
    settings: Mapping,
    classes: Any,
) -> dict[str, hotcoco.COCOeval]:
    metric = METRICS.build({**settings, "ann_file": None, "outfile_prefix": None})
    images = [image["id"] for image in truth["images"]]
    categories = [c["id"] for c in truth["categories"] if classes is None or c["name"] in classes]
    limits = (images, categories, metric.proposal_nums, np.atleast_1d(metric.iou_thrs))
    evaluations = {}
    try:
        ground_truth = hotcoco_eval.read_truth(truth)
        for kind, table in tables.items():
            detected = hotcoco_eval.load_detections(ground_truth, table, masks[kind])
            evaluations[kind] = hotcoco_eval.evaluate(kind, ground_truth, detected, *limits)
    except hotcoco_eval.UnusualDataError as error:
        raise UserError(f"no report of this data, which hotcoco does not take: {error}") from error
    return evaluations


def as_table(detections: list[dict[str, Any]]) -> NDArray:
    """Detections as :func:`mmconvnext.evaluation.hotcoco_eval.load_detections` takes them."""
    columns = [
        np.array([each[key] for each in detections], np.float64)
        for key in ("image_id", "bbox", "score", "category_id")
    ]
    return np.column_stack(columns)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
