"""Ground truth and detections at the scale of COCO's val2017, made of a real subset of COCO.

Images are copies of real ones, with their crowds; the other objects are outlines of real ones,
stretched to other boxes. So are detections: some near an object, others where none is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.coco_subset import Subset, read_subset
from benchmarks.comparison import BenchmarkError

TRUTH, DETECTIONS = "truth.json", "detections.npz"
SEED = 0
OBJECT_JITTER = 0.1  # standard deviation: of the shift in sides of the box, of the sides' log
DETECTION_JITTER = 0.1  # mean of the same, over detections
NEAR_OBJECT = 4  # detections near each object, if there is module for as many
WRONG_LABELS = 0.15
SHARPNESS = 6.0  # how quickly a detection's score falls with its jitter
HIGHEST_FALSE_SCORE = 0.8
SMALLEST_SIDE = 2.0  # pixels
DECIMALS = 2  # of coordinates, as in COCO's files


def generate(
    data_root: str, folder: str | Path, images: int, objects: int, detections: int
) -> None:
    """Write ground truth and detections, the same for the same arguments.

    Args:
        data_root: folder of COCO, with annotations/instances_val2017.json; where that has fewer
            images than asked for, instances_train2017.json beside it is used, too.
        folder: where ``truth.json`` and ``detections.npz`` go; :func:`read_detections` reads them.
        images: how many.
        objects: how many in all of them; as in the subset, some images have many, some none.
        detections: how many in all images, the same number in each but for rounding.

    Raises:
        BenchmarkError: a number is less than 1, or there are no annotations to draw from.
    """
    for name, number in {"images": images, "objects": objects, "detections": detections}.items():
        if number < 1:
            raise BenchmarkError(f"--{name} {number} must be at least 1")
    rng = np.random.default_rng(SEED)
    subset = read_subset(data_root, images)
    copies = rng.integers(len(subset.images), size=images)
    weights = np.array(subset.objects)[copies] + 1e-9  # they may all be 0
    counts = zip(_shares(objects, weights), _shares(detections, np.ones(images)), strict=True)
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": subset.categories}
    found = []
    for copied, (num_objects, num_detections) in zip(copies, counts, strict=True):
        image = {**subset.images[copied], "id": len(truth["images"]) + 1}
        truth["images"].append(image)
        crowds = subset.crowds.get(subset.images[copied]["id"], [])[:num_objects]
        drawn = rng.integers(len(subset.outlines), size=num_objects - len(crowds))
        size = np.array([image["width"], image["height"]])
        boxes = _jitter(rng, _boxes(subset, drawn, size), OBJECT_JITTER, size)
        for annotation in (*crowds, *_annotations(subset, drawn, boxes, size)):
            ids = {"id": len(truth["annotations"]) + 1, "image_id": image["id"]}
            truth["annotations"].append({**annotation, **ids})
        found.append(_detect(rng, subset, drawn, boxes, size, num_detections))
    Path(folder, TRUTH).write_text(json.dumps(truth), encoding="utf-8")
    _write_detections(Path(folder, DETECTIONS), found)


def read_detections(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read what :func:`generate` wrote, image by image.

    Yields:
        ``img_id``; ``size``, [H, W]; ``bboxes`` (N, 4), the corners in pixels; ``scores`` and
        ``labels`` (N,); and ``masks``, a list of N compressed run-length codes.
    """
    with np.load(Path(folder, DETECTIONS)) as content:
        arrays = dict(content)
    codes, code_ends = arrays.pop("codes").tobytes(), arrays.pop("code_ends").tolist()
    sizes, image_ends = arrays.pop("sizes").tolist(), arrays.pop("image_ends").tolist()
    code_starts, image_starts = [0, *code_ends], [0, *image_ends]
    for index, (size, start, end) in enumerate(zip(sizes, image_starts, image_ends, strict=False)):
        pairs = zip(code_starts[start:end], code_ends[start:end], strict=True)
        masks = [{"size": [*size], "counts": codes[first:last]} for first, last in pairs]
        # copies: a view would keep all images' detections
        found = {name: array[start:end].copy() for name, array in arrays.items()}
        yield {"img_id": index + 1, "size": size, **found, "masks": masks}


def _shares(total: int, weights: NDArray) -> list[int]:
    """Whole numbers that are proportional to weights but for rounding, with this very sum."""
    bounds = np.round(np.cumsum(weights) * (total / weights.sum())).astype(int)
    return np.diff(bounds, prepend=0).tolist()


def _boxes(subset: Subset, chosen: Sequence[int], size: NDArray) -> NDArray:
    """The boxes of outlines in an image of some size: x, y, width and height in pixels, (N, 4)."""
    return np.array([subset.outlines[each].box for each in chosen]).reshape(-1, 4) * [*size, *size]


def _jitter(
    rng: np.random.Generator, boxes: NDArray, amount: float | NDArray, size: NDArray
) -> NDArray:
    """Shift boxes (N, 4) of x, y, width, height and change their sides, within the image."""
    sides = boxes[:, 2:] * np.exp(amount * rng.normal(size=(len(boxes), 2)))
    sides = np.clip(sides, SMALLEST_SIDE, size)
    shift = amount * boxes[:, 2:] * rng.normal(size=(len(boxes), 2))
    centres = boxes[:, :2] + boxes[:, 2:] / 2 + shift
    return np.concatenate([np.clip(centres - sides / 2, 0, size - sides), sides], axis=1)


def _stretch(subset: Subset, chosen: Sequence[int], boxes: NDArray) -> list[list[list[float]]]:
    """Outlines in boxes, as COCO's polygons: for each, a list of lists of x and y."""
    outlines = [subset.outlines[each] for each in chosen]
    if not outlines:
        return []
    lengths = [len(outline.points) for outline in outlines]
    placed = np.repeat(boxes, lengths, axis=0)
    points = np.concatenate([outline.points for outline in outlines])
    flat = (points * placed[:, 2:] + placed[:, :2]).round(DECIMALS).ravel().tolist()
    ends = iter(np.cumsum([2 * n for outline in outlines for n in outline.parts]).tolist())
    polygons, start = [], 0
    for outline in outlines:
        polygons.append([])
        for end in (next(ends) for _ in outline.parts):
            polygons[-1].append(flat[start:end])
            start = end
    return polygons


def _encode(polygons: Sequence[list[list[float]]], size: NDArray) -> list[dict]:
    width, height = map(int, size)
    codes = (mask_utils.frPyObjects(each, height, width) for each in polygons)
    return [code[0] if len(code) == 1 else mask_utils.merge(code) for code in codes]


def _annotations(
    subset: Subset, drawn: Sequence[int], boxes: NDArray, size: NDArray
) -> Iterator[dict[str, Any]]:
    """Objects of COCO's format, but for the ids of object and image."""
    polygons = _stretch(subset, drawn, boxes)
    for index, outline, code in zip(range(len(drawn)), drawn, _encode(polygons, size), strict=True):
        yield {
            "segmentation": polygons[index],
            "area": float(mask_utils.area(code)),
            "iscrowd": 0,
            "bbox": boxes[index].round(DECIMALS).tolist(),
            "category_id": subset.outlines[outline].category,
        }


def _detect(
    rng: np.random.Generator,
    subset: Subset,
    drawn: NDArray,
    boxes: NDArray,
    size: NDArray,
    number: int,
) -> dict[str, Any]:
    """Detect objects more or less well, and what is none."""
    near = min(number, NEAR_OBJECT * len(drawn))
    owners = np.arange(near) % max(len(drawn), 1)
    others = rng.integers(len(subset.outlines), size=number - near)
    chosen = np.concatenate([drawn[owners], others])
    amount = rng.exponential(DETECTION_JITTER, size=(number, 1))
    amount[near:] = 1
    before = np.concatenate([boxes[owners], _boxes(subset, others, size)])
    placed = _jitter(rng, before, amount, size)
    scores = np.exp(-SHARPNESS * amount[:, 0]) * rng.uniform(0.5, 1, size=number)
    scores[near:] = HIGHEST_FALSE_SCORE * rng.uniform(size=number - near) ** 3
    ids = [category["id"] for category in subset.categories]
    labels = np.array([ids.index(subset.outlines[each].category) for each in chosen])
    wrong = rng.uniform(size=number) < WRONG_LABELS
    labels[wrong] = rng.integers(len(ids), size=wrong.sum())
    return {
        "bboxes": np.concatenate([placed[:, :2], placed[:, :2] + placed[:, 2:]], axis=1),
        "scores": scores,
        "labels": labels,
        "masks": _encode(_stretch(subset, chosen, placed), size),
        "size": size[::-1],
    }


def _write_detections(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    codes = [mask["counts"] for each in found for mask in each["masks"]]
    np.savez(
        path,
        bboxes=np.concatenate([each["bboxes"] for each in found]).astype(np.float32),
        scores=np.concatenate([each["scores"] for each in found]).astype(np.float32),
        labels=np.concatenate([each["labels"] for each in found]).astype(np.int64),
        image_ends=np.cumsum([len(each["labels"]) for each in found]),
        sizes=np.stack([each["size"] for each in found]),
        codes=np.frombuffer(b"".join(codes), dtype=np.uint8),
        code_ends=np.cumsum([len(code) for code in codes]),
    )
