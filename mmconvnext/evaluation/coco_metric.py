"""MMDetection's COCO metric, computed by hotcoco: the same numbers in a fraction of the time."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger, print_log
from numpy.typing import NDArray
from terminaltables import AsciiTable

from mmconvnext.errors import ConfigError

BACKENDS = ("auto", "hotcoco", "pycocotools")
FAST_METRICS = {"bbox", "segm"}
MAX_DETECTIONS = 100  # an image, for COCO's AP
COCO_IOUS = np.linspace(0.5, 0.95, 10)
# Where `COCOeval.summarize` puts what: pycocotools' order.
STATS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
RECALL_STATS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
NAMES = (*STATS, *RECALL_STATS)
# The columns of the class-wise table: indices of IoU thresholds (None for all) and of areas.
CLASSWISE = ((None, 0), (0, 0), (5, 0), (None, 1), (None, 2), (None, 3))


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """``CocoMetric`` of MMDetection with hotcoco in place of pycocotools.

    Its arguments, results and class-wise table are the same, and so are the numbers, to the last
    bit. Proposals (``proposal``, ``proposal_fast``), files of results (``format_only``,
    ``outfile_prefix``), ``use_mp_eval``, other IoU thresholds than COCO's and ``proposal_nums``
    without 100 are left to MMDetection.

    Args:
        backend: ``hotcoco``; ``pycocotools``; or ``auto`` for the first where it is installed.
        *args: of ``CocoMetric``.
        **kwargs: of ``CocoMetric``.

    Raises:
        ConfigError: the backend is unknown or not installed.
    """

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backend = _choose(backend)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of ``CocoMetric``, under its names.

        Args:
            results: pairs of ground truth and prediction of each image, as ``process`` makes them.

        Returns:
            AP in 0-1, rounded to three digits; empty where nothing was detected.

        Raises:
            KeyError: ``metric_items`` has an unknown name, or there are no masks to evaluate.
        """
        if self.backend == "pycocotools" or not self._is_common():
            return super().compute_metrics(results)
        logger = MMLogger.get_current_instance()
        _check_items(self.metric_items)
        truths, predictions = zip(*results, strict=True)
        self._prepare(truths)
        metrics: dict[str, float] = OrderedDict()
        for metric in self.metrics:
            logger.info(f"Evaluating {metric} with hotcoco...")
            evaluated = self._evaluate(metric, predictions)
            if evaluated is None:
                logger.error("The testing results of the whole dataset is empty.")
                break
            stats, precision = evaluated
            if self.classwise:
                metrics.update(self._classwise(precision, logger))
            for item in self.metric_items or STATS:
                metrics[f"{metric}_{item}"] = _rounded(stats[NAMES.index(item)])
            numbers = " ".join(f"{value:.3f}" for value in stats[: len(STATS)])
            logger.info(f"{metric}_mAP_copypaste: {numbers}")
        return metrics

    def _is_common(self) -> bool:
        """Whether nothing is asked for but COCO's AP; the rest is MMDetection's to do."""
        return (
            set(self.metrics) <= FAST_METRICS
            and not (self.format_only or self.use_mp_eval or self.outfile_prefix is not None)
            # pycocotools' summary looks for these: without them it has numbers of its own making
            and MAX_DETECTIONS in self.proposal_nums
            and np.array_equal(self.iou_thrs, COCO_IOUS)
        )

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

    def _evaluate(
        self, metric: str, predictions: Sequence[Mapping]
    ) -> tuple[NDArray, NDArray] | None:
        """Stats in pycocotools' order and precision (IoU, recall, class, area, detections)."""
        import hotcoco

        table = self._detections(metric, predictions)
        if not len(table):
            return None
        truth = hotcoco.COCO(self._coco_api.dataset)
        if metric == "segm":
            masks = [mask for prediction in predictions for mask in prediction["masks"]]
            detected = truth.load_res(table, segmentation=masks)
            # the area of a mask, where that of the box would be taken
            ids = np.arange(1, len(masks) + 1)
            detected.update_anns(ids=ids, area=hotcoco.mask.area(masks))
        else:
            detected = truth.load_res(table)
        evaluation = hotcoco.COCOeval(truth, detected, metric)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = list(self.iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        with warnings.catch_warnings():
            # MMDetection's numbers of detections are not COCO's own
            warnings.filterwarnings("ignore", message="hotcoco: max_dets differ")
            evaluation.summarize()
        return np.asarray(evaluation.stats), evaluation.eval["precision"]

    def _detections(self, metric: str, predictions: Sequence[Mapping]) -> NDArray:
        """One row for each detection: image, x, y, width, height, score, category."""
        categories = np.asarray(self.cat_ids, dtype=np.float64)
        rows = []
        for index, prediction in enumerate(predictions):
            if metric == "segm" and "masks" not in prediction:
                raise KeyError("segm is not in results")
            boxes = prediction["bboxes"].astype(np.float64)
            scores = prediction["scores"]
            if metric == "segm":
                scores = prediction.get("mask_scores", scores)
            row = np.empty((len(boxes), 7))
            row[:, 0] = prediction.get("img_id", index)
            row[:, 1:3] = boxes[:, :2]
            row[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
            row[:, 5] = scores
            row[:, 6] = categories[prediction["labels"]]
            rows.append(row)
        return np.concatenate(rows)

    def _classwise(self, precision: NDArray, logger: MMLogger) -> dict[str, float]:
        """AP of each class, also as a table in the log."""
        names = [category["name"] for category in self._coco_api.loadCats(self.cat_ids)]
        rows, metrics = [["category", *STATS]], {}
        for index, name in enumerate(names):
            values = []
            for iou, area in CLASSWISE:
                part = precision[slice(None) if iou is None else iou, :, index, area, -1]
                part = part[part > -1]
                values.append(round(np.mean(part) if part.size else np.nan, 3))
            metrics[f"{name}_precision"] = values[0]
            rows.append([name, *map(str, values)])
        logger.info("\n%s", AsciiTable(rows).table)
        return metrics


def _choose(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r} of FastCocoMetric must be one of {BACKENDS}")
    installed = importlib.util.find_spec("hotcoco") is not None
    if backend == "hotcoco" and not installed:
        raise ConfigError(
            "backend='hotcoco' of FastCocoMetric: hotcoco is not installed; pip install hotcoco, "
            "or take backend='pycocotools'"
        )
    if backend != "auto":
        return backend
    if not installed:
        print_log(
            "FastCocoMetric: hotcoco is not installed; pycocotools computes the same, more slowly",
            logger="current",
        )
    return "hotcoco" if installed else "pycocotools"


def _check_items(items: Sequence[str] | None) -> None:
    unknown = [item for item in items or () if item not in NAMES]
    if unknown:
        raise KeyError(f'metric item "{unknown[0]}" is not supported; choose of {", ".join(NAMES)}')


def _rounded(value: float) -> float:
    return float(f"{round(value, 3)}")
