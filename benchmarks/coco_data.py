"""Ground truth and detections at the scale of COCO's val2017, made of a real subset of COCO.

Images are copies of real ones, with their crowds; the other objects are outlines of real ones,
stretched to other boxes. So are detections: some near an object, others where none is.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.comparison import BenchmarkError, check_positive

TRUTH, DETECTIONS = "truth.json", "detections.pkl"
SPLITS = ("val2017", "train2017")
SEED = 0
OBJECT_JITTER = 0.1  # standard deviation: of the shift in sides of the box, of the sides' log
DETECTION_JITTER = 0.1  # mean of the same, over detections
NEAR_OBJECT = 4  # detections near each object, if as many are asked for
WRONG_LABELS = 0.15
SHARPNESS = 6.0  # how quickly a detection's score falls with its jitter
HIGHEST_FALSE_SCORE = 0.8
SMALLEST_SIDE = 2.0  # pixels
DECIMALS = 2  # of coordinates, as in COCO's files


class Outline(NamedTuple):
    """A real object."""

    polygons: list[NDArray]  # of x and y, (P, 2) each, in parts of the object's box
    box: NDArray  # x, y, width and height, in parts of its image
    category: int  # its id


def generate(
    data_root: str, folder: str | Path, images: int, objects: int, detections: int
) -> None:
    """Write ground truth and detections, the same for the same arguments.

    Args:
        data_root: folder of COCO, with annotations/instances_val2017.json; where that has fewer
            images than asked for, instances_train2017.json beside it is used, too.
        folder: where ``TRUTH`` and ``DETECTIONS`` go; :func:`read_detections` reads the latter.
        images: how many.
        objects: how many in all of them; as in the subset, some images have many, some none.
        detections: how many in all images, the same number in each but for rounding.

    Raises:
        BenchmarkError: a number is less than 1, or there are no annotations to draw from.
    """
    check_positive(images=images, objects=objects, detections=detections)
    rng = np.random.default_rng(SEED)
    contents = _read(data_root, images)
    real = {(i, image["id"]): image for i, each in enumerate(contents) for image in each["images"]}
    owned: dict[tuple, list[dict]] = {key: [] for key in real}
    for i, each in enumerate(contents):
        for annotation in each["annotations"]:
            owned[i, annotation["image_id"]].append(annotation)
    outlines = [
        _outline(annotation, real[key])
        for key, own in owned.items()
        for annotation in own
        if not annotation["iscrowd"] and isinstance(annotation["segmentation"], list)
    ]
    if not outlines:
        raise BenchmarkError(f"--data-root {data_root} has no object with a polygon to draw from")
    copies = rng.integers(len(real), size=images)
    weights = np.array([len(each) for each in owned.values()])[copies] + 1e-9  # may all be 0
    counts = zip(_shares(objects, weights), _shares(detections, np.ones(images)), strict=True)
    categories = contents[0]["categories"]
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    found, keys = [], list(real)
    for copied, (num_objects, num_detections) in zip(copies, counts, strict=True):
        image = {**real[keys[copied]], "id": len(truth["images"]) + 1}
        truth["images"].append(image)
        crowds = [a for a in owned[keys[copied]] if a["iscrowd"]][:num_objects]
        drawn = rng.integers(len(outlines), size=num_objects - len(crowds))
        size = np.array([image["width"], image["height"]])
        chosen = [outlines[each] for each in drawn]
        boxes = _jitter(rng, _boxes(chosen, size), OBJECT_JITTER, size)
        for annotation in (*crowds, *_annotations(chosen, boxes, size)):
            ids = {"id": len(truth["annotations"]) + 1, "image_id": image["id"]}
            truth["annotations"].append({**annotation, **ids})
        ids = [category["id"] for category in categories]
        detected = _detect(rng, outlines, chosen, boxes, size, num_detections, ids)
        found.append({"img_id": image["id"], "size": size[::-1].tolist(), **detected})
    Path(folder, TRUTH).write_text(json.dumps(truth), encoding="utf-8")
    Path(folder, DETECTIONS).write_bytes(pickle.dumps(found))


def read_detections(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read what :func:`generate` wrote, image by image.

    Yields:
        ``img_id``; ``size``, [H, W]; ``bboxes`` (N, 4), the corners in pixels; ``scores`` and
        ``labels`` (N,); and ``masks``, a list of N compressed run-length codes.
    """
    yield from pickle.loads(Path(folder, DETECTIONS).read_bytes())  # our own file


def _read(data_root: str, images: int) -> list[dict]:
    """The annotation files of as many splits as it takes for so many images."""
    contents: list[dict] = []
    for split in SPLITS:
        path = Path(data_root, "annotations", f"instances_{split}.json")
        if not path.is_file() and not contents:
            raise BenchmarkError(
                f"--data-root {data_root} has no {path.relative_to(data_root)}: name the folder of "
                "COCO 2017, or of a subset of it"
            )
        if path.is_file() and sum(len(each["images"]) for each in contents) < images:
            contents.append(json.loads(path.read_text(encoding="utf-8")))
    return contents


def _outline(annotation: Mapping, image: Mapping) -> Outline:
    polygons = [np.array(each).reshape(-1, 2) for each in annotation["segmentation"]]
    points = np.concatenate(polygons)
    size = np.array([image["width"], image["height"]])
    low = points.min(axis=0)
    extent = np.maximum(points.max(axis=0) - low, 1e-6)
    box = np.concatenate([low / size, extent / size])
    return Outline([(each - low) / extent for each in polygons], box, annotation["category_id"])


def _shares(total: int, weights: NDArray) -> list[int]:
    """Whole numbers that are proportional to weights but for rounding, with this very sum."""
    bounds = np.round(np.cumsum(weights) * (total / weights.sum())).astype(int)
    return np.diff(bounds, prepend=0).tolist()


def _boxes(outlines: Sequence[Outline], size: NDArray) -> NDArray:
    """The boxes of outlines in an image of some size: x, y, width and height in pixels, (N, 4)."""
    return np.array([each.box for each in outlines]).reshape(-1, 4) * [*size, *size]


def _jitter(
    rng: np.random.Generator, boxes: NDArray, amount: float | NDArray, size: NDArray
) -> NDArray:
    """Shift boxes (N, 4) of x, y, width, height and change their sides, within the image."""
    sides = boxes[:, 2:] * np.exp(amount * rng.normal(size=(len(boxes), 2)))
    sides = np.clip(sides, SMALLEST_SIDE, size)
    shift = amount * boxes[:, 2:] * rng.normal(size=(len(boxes), 2))
    centres = boxes[:, :2] + boxes[:, 2:] / 2 + shift
    return np.concatenate([np.clip(centres - sides / 2, 0, size - sides), sides], axis=1)


def _stretch(outlines: Sequence[Outline], boxes: NDArray) -> list[list[list[float]]]:
    """Outlines in boxes, as COCO's polygons: for each, a list of lists of x and y."""
    return [
        [(each * box[2:] + box[:2]).round(DECIMALS).ravel().tolist() for each in outline.polygons]
        for outline, box in zip(outlines, boxes, strict=True)
    ]


def _encode(polygons: Sequence[list[list[float]]], size: NDArray) -> list[dict]:
    width, height = map(int, size)
    return [mask_utils.merge(mask_utils.frPyObjects(each, height, width)) for each in polygons]


def _annotations(
    outlines: Sequence[Outline], boxes: NDArray, size: NDArray
) -> Iterator[dict[str, Any]]:
    """Objects of COCO's format, but for the ids of object and image."""
    polygons = _stretch(outlines, boxes)
    rows = zip(outlines, polygons, _encode(polygons, size), boxes, strict=True)
    for outline, polygon, code, box in rows:
        yield {
            "segmentation": polygon,
            "area": float(mask_utils.area(code)),
            "iscrowd": 0,
            "bbox": box.round(DECIMALS).tolist(),
            "category_id": outline.category,
        }


def _detect(
    rng: np.random.Generator,
    outlines: Sequence[Outline],
    objects: Sequence[Outline],
    boxes: NDArray,
    size: NDArray,
    number: int,
    ids: Sequence[int],
) -> dict[str, Any]:
    """Detect objects more or less well, and what is none."""
    near = min(number, NEAR_OBJECT * len(objects))
    owners = np.arange(near) % max(len(objects), 1)
    others = [outlines[each] for each in rng.integers(len(outlines), size=number - near)]
    chosen = [*(objects[each] for each in owners), *others]
    amount = rng.exponential(DETECTION_JITTER, size=(number, 1))
    amount[near:] = 1
    placed = _jitter(rng, np.concatenate([boxes[owners], _boxes(others, size)]), amount, size)
    scores = np.exp(-SHARPNESS * amount[:, 0]) * rng.uniform(0.5, 1, size=number)
    scores[near:] = HIGHEST_FALSE_SCORE * rng.uniform(size=number - near) ** 3
    labels = np.array([ids.index(each.category) for each in chosen], dtype=np.int64)
    wrong = rng.uniform(size=number) < WRONG_LABELS
    labels[wrong] = rng.integers(len(ids), size=wrong.sum())
    corners = np.concatenate([placed[:, :2], placed[:, :2] + placed[:, 2:]], axis=1)
    return {
        "bboxes": corners.astype(np.float32),
        "scores": scores.astype(np.float32),
        "labels": labels,
        "masks": _encode(_stretch(chosen, placed), size),
    }
