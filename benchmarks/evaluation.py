"""The comparison of COCO's metrics: ours with hotcoco, MMDetection's with pycocotools."""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval

from benchmarks.comparison import (
    VAL,
    Arrays,
    add_data_arguments,
    at_least,
    check_coco,
    demand,
    run,
    say,
)
from benchmarks.report import Report, fact_column
from benchmarks.worker import BenchmarkError, Candidate
from mmconvnext.evaluation.coco_metric import FastCocoMetric

CLASSWISE_HEADING = "| category"
OURS, THEIRS = "ours, hotcoco", "MMDetection, pycocotools"
METRICS = ("bbox", "segm")
ANNOTATIONS = VAL[0]
SEED = 0
TRUTH, DETECTIONS = "truth.json", "detections.pkl"
JITTER = 0.1  # mean of the shift of detections in sides of the box, and of the change of the sides
NEAR_OBJECT = 4  # detections near each object, if as many are asked for
WRONG_LABELS = 0.15
SHARPNESS = 6.0  # how quickly a detection's score falls with its jitter
HIGHEST_FALSE_SCORE = 0.8
SMALLEST_SIDE = 2.0  # pixels
NOTES = (
    "timed: evaluate() of the metric, from detections in memory, masks encoded, to AP and the "
    "class-wise table; bbox: the detections of a detector without masks",
    "compared: every number returned and in the table, and the precision at each IoU, recall, "
    "class and area: all equal to the last bit",
    "images, objects and crowds are real, those of a subset again and again; detections are "
    "outlines of real objects, moved and stretched",
)


class Evaluation:
    """The factory of the comparison of metrics, see :class:`benchmarks.worker.Candidate`.

    What is timed is ``evaluate()``, from detections as the test loop leaves them, with masks
    encoded, to the dict of numbers and the table of classes. The detections are those that
    :func:`generate` wrote into the folder; ours has hotcoco compute, not MMDetection's metric.
    """

    def __init__(self, folder: str, metric: str, ours: bool):
        settings = {"ann_file": str(Path(folder, TRUTH)), "metric": metric, "classwise": True}
        backend = {"backend": "hotcoco"} if ours else {}
        self._metric = (FastCocoMetric if ours else CocoMetric)(**settings, **backend)
        categories = self._metric._coco_api.dataset["categories"]
        self._metric.dataset_meta = {"classes": tuple(each["name"] for each in categories)}
        for sample in pickle.loads(Path(folder, DETECTIONS).read_bytes()):  # our own file
            found = sample["pred_instances"]
            if metric == "bbox":
                del found["masks"]
            found |= {k: torch.from_numpy(found[k]) for k in ("bboxes", "scores", "labels")}
            self._metric.process({}, [sample])
        self._results = [*self._metric.results]
        self._numbers: dict[str, float] = {}

    def run(self) -> None:
        """Evaluate."""
        self._metric.results = [*self._results]  # evaluate() empties its list
        self._numbers = self._metric.evaluate(len(self._results))

    def check(self) -> dict[str, np.ndarray]:
        """Return all numbers, those before rounding, and the class-wise table as text."""
        watched = {"autospec": True, "side_effect": COCOeval.summarize}
        summarize = mock.patch.object(COCOeval, "summarize", **watched)
        handle = mock.patch.object(MMLogger.get_current_instance(), "handle")
        with summarize as summarized, handle as handled:
            self.run()
        (evaluation,) = summarized.call_args.args
        lines = [call.args[0].getMessage() for call in handled.call_args_list]
        (table,) = (line for line in lines if CLASSWISE_HEADING in line)
        return {
            **{name: np.array(value) for name, value in self._numbers.items()},
            "stats": evaluation.stats,
            "precision": evaluation.eval["precision"],
            "class-wise table": np.array(table),
        }

    def facts(self) -> dict[str, float]:
        """Return mAP, 0-1, and the number of detections; to be called after ``check()``."""
        (mean,) = (value for name, value in self._numbers.items() if name.endswith("_mAP"))
        detections = sum(len(found["labels"]) for _, found in self._results)
        return {"mAP": mean, "detections": detections}


class Outline(NamedTuple):
    """A real object."""

    polygons: list[NDArray]  # of x and y, (P, 2) each, in parts of the object's box
    box: NDArray  # x, y, width and height in pixels
    category: int  # its id


def generate(data_root: str, folder: str | Path, images: int, detections: int) -> int:
    """Write ``TRUTH`` and ``DETECTIONS`` into a folder, the same for the same arguments.

    Where there are less images of val2017, they come again; each has the same number of detections
    but for rounding. Returns how many objects there are.
    """
    real = json.loads(Path(data_root, ANNOTATIONS).read_text(encoding="utf-8"))
    owned: dict[int, list[dict]] = {image["id"]: [] for image in real["images"]}
    for annotation in real["annotations"]:
        owned[annotation["image_id"]].append(annotation)
    outlines = {image: [*_outlines(annotations)] for image, annotations in owned.items()}
    others = [outline for each in outlines.values() for outline in each]
    if not others:
        raise BenchmarkError(f"--data-root {data_root} has no object with a polygon to draw from")
    rng = np.random.default_rng(SEED)
    ids = [category["id"] for category in real["categories"]]
    truth: dict[str, Any] = {**real, "images": [], "annotations": []}
    samples = []
    for index in range(images):
        image = real["images"][index % len(owned)]
        truth["images"].append({**image, "id": index})
        for annotation in owned[image["id"]]:
            own_id = len(truth["annotations"]) + 1
            truth["annotations"].append({**annotation, "id": own_id, "image_id": index})
        number = detections * (index + 1) // images - detections * index // images
        shape = [image["height"], image["width"]]
        found = _detect(rng, outlines[image["id"]], others, shape, number, ids)
        samples.append({"img_id": index, "ori_shape": shape, "pred_instances": found})
    Path(folder, TRUTH).write_text(json.dumps(truth), encoding="utf-8")
    Path(folder, DETECTIONS).write_bytes(pickle.dumps(samples))
    return len(truth["annotations"])


def _outlines(annotations: Sequence[dict]) -> Iterator[Outline]:
    for each in annotations:
        if not each["iscrowd"] and isinstance(each["segmentation"], list):
            polygons = [np.array(polygon).reshape(-1, 2) for polygon in each["segmentation"]]
            points = np.concatenate(polygons)
            low = points.min(axis=0)
            sides = np.maximum(points.max(axis=0) - low, 1e-6)
            inside = [(polygon - low) / sides for polygon in polygons]
            yield Outline(inside, np.concatenate([low, sides]), each["category_id"])


def _detect(
    rng: np.random.Generator,
    objects: Sequence[Outline],
    others: Sequence[Outline],
    shape: Sequence[int],
    number: int,
    ids: Sequence[int],
) -> dict[str, Any]:
    """Detect objects more or less well, and what is none: what a detector gives, as arrays."""
    near = min(number, NEAR_OBJECT * len(objects))
    chosen = [objects[index % len(objects)] for index in range(near)]
    chosen += [others[index] for index in rng.integers(len(others), size=number - near)]
    amount = rng.exponential(JITTER, size=(number, 1))
    amount[near:] = 1
    low, sides = np.hsplit(np.array([each.box for each in chosen]).reshape(-1, 4), 2)
    centres = low + sides / 2 + amount * sides * rng.normal(size=(number, 2))
    sides = sides * np.exp(amount * rng.normal(size=(number, 2)))
    sides = np.clip(sides, SMALLEST_SIDE, shape[::-1])
    low = np.clip(centres - sides / 2, 0, shape[::-1] - sides)
    scores = np.exp(-SHARPNESS * amount[:, 0]) * rng.uniform(0.5, 1, size=number)
    scores[near:] = HIGHEST_FALSE_SCORE * rng.uniform(size=number - near) ** 3
    labels = np.array([ids.index(each.category) for each in chosen], dtype=np.int64)
    wrong = rng.uniform(size=number) < WRONG_LABELS
    labels[wrong] = rng.integers(len(ids), size=wrong.sum())
    masks = []
    for outline, corner, side in zip(chosen, low, sides, strict=True):
        polygons = [(each * side + corner).ravel().tolist() for each in outline.polygons]
        masks.append(mask_utils.merge(mask_utils.frPyObjects(polygons, *shape)))
    boxes = np.concatenate([low, low + sides], axis=1).astype(np.float32)
    found = {"bboxes": boxes, "scores": scores.astype(np.float32), "labels": labels}
    return {**found, "masks": masks}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options; the defaults are those of val2017, 100 detections an image."""
    add = parser.add_argument
    add_data_arguments(parser, images=5_000)
    add("--detections", type=at_least(1), default=500_000, help="in all; default: %(default)s")
    add("--metric", nargs="+", choices=METRICS, default=[*METRICS], help="default: both")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each metric, of the same detections; may raise BenchmarkError."""
    check_coco(args.data_root, ANNOTATIONS)
    images, detections = args.images, args.detections
    tables = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        say(f"drawing {detections:,} detections")
        objects = generate(args.data_root, folder, images, detections)
        scale = f"{images:,} images, {objects:,} objects, {detections:,} detections"
        for metric in args.metric:
            work = {"folder": folder, "metric": metric}
            candidates = [
                Candidate(OURS, Evaluation, {**work, "ours": True}),
                Candidate(THEIRS, Evaluation, {**work, "ours": False}),
            ]
            tables.append(run(candidates, args, check, f"{metric}, {scale}"))
    return Report(tables, [fact_column("mAP", "mAP", form=".3f")], NOTES)


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same numbers, to the last bit, else raise UnequalResultsError."""
    for key in sorted({*ours, *theirs}):
        alone = f"only {'ours' if key in ours else name} gives {key}"
        demand(key in ours and key in theirs, alone)
        a, b = ours[key], theirs[key]
        same = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        demand(same, f"{name} and ours differ in {key}: {_shown(b)} and {_shown(a)}")
    return {"all": 0.0}


def _shown(array: np.ndarray) -> str:
    if array.ndim:
        return f"{array.dtype} {array.shape} with mean {array.mean():.17g}"
    return str(array)
