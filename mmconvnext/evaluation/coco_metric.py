"""MMDetection's COCO metric, computed by hotcoco: the same numbers in a fraction of the time."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger, print_log
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from mmconvnext.data.paths import kinds_of, metrics_of
from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.hotcoco_eval import (
    UnusualDataError,
    evaluate,
    load_detections,
    read_truth,
    save_detections,
    summarize,
)
from mmconvnext.evaluation.rle import encode_masks
from mmconvnext.evaluation.tables import COLUMNS, KINDS, format_table
from mmconvnext.variants import is_positive_int

if TYPE_CHECKING:
    import hotcoco

BACKENDS = ("auto", "hotcoco", "pycocotools")
FAST_METRICS = {"bbox", "segm"}
# Where `COCOeval.summarize` puts what: pycocotools' order.
STATS = tuple(COLUMNS)
RECALL_STATS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
NAMES = (*STATS, *RECALL_STATS)
# What is 0 without any detection; AP by size could be -1, where no object has that size.
ZERO_WITHOUT_DETECTIONS = STATS[:3]
# The columns of the class-wise table: indices of IoU thresholds (None for all) and of areas.
CLASSWISE = ((None, 0), (0, 0), (5, 0), (None, 1), (None, 2), (None, 3))


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """``CocoMetric`` of MMDetection with hotcoco in place of pycocotools.

    Its arguments, results and class-wise table are the same, and so are the numbers, to the last
    bit. Proposals, ``format_only`` and ``use_mp_eval`` are left to MMDetection; so is, with a line
    in the log, what hotcoco would refuse or count in another way (``UnusualDataError``). One
    difference: where categories are not in the order of their ids, MMDetection's table gives the
    classes each other's AP, this one their own, whichever library computes it.

    Args:
        classwise: whether the AP of each class is reported, as ``cat_precision``; with ``"kinds"``
            as ``bbox/cat_precision`` and ``segm/cat_precision``.
        proposal_nums: of detections in an image; 100 must be among them, and of more than three
            the smallest, the largest and 100 are used.
        backend: ``hotcoco``; ``pycocotools``; or ``auto`` for the first where it is installed.
        *args: of ``CocoMetric``.
        **kwargs: of ``CocoMetric``.

    Raises:
        ConfigError: the backend is unknown or not installed.
    """

    def __init__(
        self, *args: Any, backend: str = "auto", classwise: bool | str = False, **kwargs: Any
    ):
        super().__init__(*args, classwise=bool(classwise), **kwargs)
        self.backend = _choose(backend)
        self.by_kind = classwise == "kinds"
        if set(self.metrics) <= FAST_METRICS:
            self.proposal_nums = _three_limits(self.proposal_nums)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping]) -> None:
        """Keep what was detected, as ``CocoMetric`` does, with masks as run lengths.

        ``pred_instances`` of each sample has ``bboxes`` (N, 4) xyxy, ``scores`` and ``labels``
        (N,), maybe ``masks`` (N, H, W) and ``mask_scores`` (N,).
        """
        super().process(data_batch, [_with_codes(sample) for sample in data_samples])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of ``CocoMetric``, under its names.

        Returns:
            AP in 0-1, rounded to three digits; empty where nothing was detected.

        Raises:
            KeyError: ``metric_items`` has an unknown name, or there are no masks to evaluate.
            ConfigError: something was detected on an image that ``ann_file`` does not have.
        """
        others = self.format_only or self.use_mp_eval
        if self.backend == "pycocotools" or others or not set(self.metrics) <= FAST_METRICS:
            return self._compute_by_pycocotools(results)
        logger = MMLogger.get_current_instance()
        if unknown := [item for item in self.metric_items or () if item not in NAMES]:
            raise KeyError(
                f'metric item "{unknown[0]}" is not supported; choose of {", ".join(NAMES)}'
            )
        truths, predictions = zip(*results, strict=True)
        self._prepare(truths)
        try:
            truth = read_truth(self._coco_api.dataset)
            tables = {metric: self._detections(metric, predictions) for metric in self.metrics}
        except UnusualDataError as error:
            logger.warning(f"FastCocoMetric leaves this to pycocotools, which is slower: {error}")
            return self._compute_by_pycocotools(results)
        metrics: dict[str, float] = OrderedDict()
        for metric in self.metrics:
            logger.info(f"Evaluating {metric} with hotcoco...")
            if not len(tables[metric]):
                logger.error("The testing results of the whole dataset is empty.")
                break
            masks = _masks(predictions) if metric == "segm" else None
            evaluation = self._evaluate(metric, truth, tables[metric], masks)
            stats = evaluation.stats
            if self.classwise:
                precision = self._classwise(evaluation.eval["precision"], logger)
                metrics.update(self._named(metric, precision))
            for item in STATS if self.metric_items is None else self.metric_items:
                metrics[f"{metric}_{item}"] = float(f"{round(stats[NAMES.index(item)], 3)}")
            numbers = " ".join(f"{value:.3f}" for value in stats[: len(STATS)])
            logger.info(f"{metric}_mAP_copypaste: {numbers}")
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
            for metric, table in tables.items():
                masks = _masks(predictions) if metric == "segm" else None
                save_detections(Path(f"{self.outfile_prefix}.{metric}.npz"), table, masks)
        return metrics

    def _compute_by_pycocotools(self, results: list) -> dict[str, float]:
        if not (self.classwise and results):
            return super().compute_metrics(results)
        self._prepare([truth for truth, _ in results])
        # MMDetection takes the rows of its table for classes in the order of their ids.
        before, kinds, metrics = self.cat_ids, self.metrics, OrderedDict()
        self.cat_ids = sorted(before)
        labels = np.array([self.cat_ids.index(category) for category in before])
        results = [
            (truth, {**found, "labels": labels[found["labels"]]}) for truth, found in results
        ]
        try:
            # The AP of a class has one key, whatever the kind.
            for part in [[kind] for kind in kinds] if self.by_kind else [kinds]:
                self.metrics = part
                metrics.update(self._named(part[0], super().compute_metrics(results)))
        finally:
            self.cat_ids, self.metrics = before, kinds
        return metrics

    def _named(self, kind: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """With the kind before the AP of classes, where that was asked for."""
        return {
            f"{kind}/{k}" if self.by_kind and k.endswith("_precision") else k: v
            for k, v in metrics.items()
        }

    def _prepare(self, truths: Sequence[dict]) -> None:
        """What MMDetection looks up at the first evaluation."""
        if self._coco_api is None:
            with tempfile.TemporaryDirectory() as folder:
                path = self.gt_to_coco_json(gt_dicts=truths, outfile_prefix=f"{folder}/truth")
                self._coco_api = COCO(path)
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()

    def _detections(self, metric: str, predictions: Sequence[Mapping]) -> NDArray:
        """One row for each detection: image, x, y, width, height, score, category."""
        categories = np.asarray(self.cat_ids, dtype=np.float64)
        rows = [np.empty((0, 7))]
        for index, prediction in enumerate(predictions):
            if metric == "segm" and "masks" not in prediction:
                raise KeyError("segm is not in results")
            if not len(prediction["bboxes"]):
                continue
            image = prediction.get("img_id", index)
            if image not in self._coco_api.imgs:
                raise ConfigError(
                    f"image {image!r}, on which something was detected, is not in the ground truth;"
                    " ann_file of the evaluator and of the data set must be the same"
                )
            boxes = prediction["bboxes"].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            kind = "mask_scores" if metric == "segm" and "mask_scores" in prediction else "scores"
            columns = [boxes, prediction[kind], categories[prediction["labels"]]]
            rows.append(np.column_stack([np.full(len(boxes), image), *columns]))
        table = np.concatenate(rows)
        if np.isnan(table).any():
            raise UnusualDataError("boxes or scores of detections are not numbers (NaN)")
        return table

    def _evaluate(
        self, metric: str, truth: hotcoco.COCO, table: NDArray, masks: list[dict] | None
    ) -> COCOeval:
        """Compare detections, (N, 7) float64 and N masks for ``segm``, with ground truth.

        Returns:
            pycocotools' object, as after its ``summarize()``, which prints: ``stats`` (12,), and
            ``eval["precision"]`` (IoU thresholds, recalls, categories in the order of their ids,
            areas, numbers of detections).
        """
        detected = load_detections(truth, table, masks)
        ids = (self.img_ids, self.cat_ids)
        thresholds = np.atleast_1d(self.iou_thrs)
        return summarize(evaluate(metric, truth, detected, *ids, self.proposal_nums, thresholds))

    def _classwise(self, precision: NDArray, logger: MMLogger) -> dict[str, float]:
        """AP of each class, also as a table in the log."""
        rows, metrics = [["category", *STATS]], {}
        order = sorted({*self.cat_ids})
        for category in self._coco_api.loadCats(self.cat_ids):
            index, name, values = order.index(category["id"]), category["name"], []
            for iou, area in CLASSWISE:
                part = precision[slice(None) if iou is None else iou, :, index, area, -1]
                part = part[part > -1]
                values.append(round(np.mean(part) if part.size else np.nan, 3))
            metrics[f"{name}_precision"] = values[0]
            rows.append([name, *map(str, values)])
        logger.info("\n%s", format_table(rows, numbers=False))
        return metrics


def is_coco_metric(metric: Mapping[str, Any]) -> bool:
    """Whether the settings of a metric are those of ``CocoMetric`` or ``FastCocoMetric``."""
    kind = metric.get("type")
    return (METRICS.get(kind) if isinstance(kind, str) else kind) in (CocoMetric, FastCocoMetric)


def with_missing_ap(
    metrics: Mapping[str, float], evaluator: Mapping[str, Any] | Sequence | None
) -> dict[str, float]:
    """Add the AP, AP50 and AP75 of a detector that found nothing: 0.

    Without detections ``CocoMetric`` logs an error and returns no metrics at all. ``metrics`` are
    as MMEngine's runner returns them, in 0-1; ``evaluator``, the settings, say what was asked for.
    """
    inner = metrics_of(evaluator)
    sets = (evaluator or {}).get("dataset_prefixes") if isinstance(evaluator, Mapping) else None
    missing = {}
    prefixes = [f"{name}/" for name in sets or ()] or [""] * len(inner)
    for prefix, metric in zip(prefixes, inner, strict=False):
        prefix += metric.get("prefix") or "coco"
        for kind in kinds_of(metric) if is_coco_metric(metric) else ():
            there = any(name.startswith(f"{prefix}/{kind}_mAP") for name in metrics)
            if kind in KINDS and not there and not metric.get("format_only"):
                missing |= {f"{prefix}/{kind}_{c}": 0.0 for c in ZERO_WITHOUT_DETECTIONS}
    if missing:
        print_log("no detections: AP is 0", logger="current", level=logging.WARNING)
    return {**metrics, **missing}


def _with_codes(sample: Mapping) -> Mapping:
    """A copy of a sample with masks encoded, as other metrics are given the same sample."""
    found = sample["pred_instances"]
    if not isinstance(found.get("masks"), torch.Tensor):
        return sample
    codes = encode_masks(found["masks"].detach().cpu().numpy())
    return {**sample, "pred_instances": {**found, "masks": codes}}


def _masks(predictions: Sequence[Mapping]) -> list[dict]:
    return [mask for prediction in predictions for mask in prediction["masks"]]


def _three_limits(numbers: Sequence[int]) -> list[int]:
    """Numbers of detections for COCO's summary, which takes the third for most, and 100 for mAP.

    Raises:
        ConfigError: one is no number above 0, or 100 is missing: mAP would be -1.
    """
    if not numbers or not all(map(is_positive_int, numbers)) or 100 not in numbers:
        raise ConfigError(
            f"proposal_nums={tuple(numbers)} must be integers above 0, with 100 among them, at "
            "which COCO takes mAP"
        )
    ordered = sorted(numbers)
    middle = 100 if ordered[0] < 100 < ordered[-1] else ordered[min(1, len(ordered) - 1)]
    return [ordered[0], middle, ordered[-1]]


def _choose(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r} of FastCocoMetric must be one of {BACKENDS}")
    if backend == "pycocotools" or importlib.util.find_spec("hotcoco") is not None:
        return backend.replace("auto", "hotcoco")
    if backend == "hotcoco":
        raise ConfigError(
            "backend='hotcoco' of FastCocoMetric: hotcoco is not installed; pip install hotcoco, "
            "or take backend='pycocotools'"
        )
    note = "FastCocoMetric: hotcoco is not installed; pycocotools computes the same, more slowly"
    print_log(note, logger="current")
    return "pycocotools"
