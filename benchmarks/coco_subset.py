"""A subset of COCO: images, crowds, and outlines of objects to draw from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison import BenchmarkError

SPLITS = ("val2017", "train2017")


@dataclass(frozen=True)
class Outline:
    """A real object.

    Attributes:
        points: of its polygons, one after the other, (P, 2) for x and y; in its box, 0-1.
        parts: how many points each polygon has.
        box: x, y, width and height, in parts of its image.
        category: its id.
    """

    points: NDArray
    parts: tuple[int, ...]
    box: NDArray
    category: int


@dataclass(frozen=True)
class Subset:
    """What is drawn from.

    Attributes:
        images: of COCO's format.
        objects: how many each of them has, with its crowds.
        crowds: annotations by the id of their image.
        outlines: of all other objects.
        categories: of COCO's format.
    """

    images: Sequence[dict]
    objects: Sequence[int]
    crowds: Mapping[int, list[dict]]
    outlines: Sequence[Outline]
    categories: Sequence[dict]


def read_subset(data_root: str, images: int) -> Subset:
    """Read real annotations.

    Args:
        data_root: folder of COCO, with annotations/instances_val2017.json.
        images: how many are enough; if there are fewer, instances_train2017.json beside it, where
            there is one, is read, too.

    Raises:
        BenchmarkError: the file of val2017 is missing, or no object has an outline.
    """
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
    real = [image for content in contents for image in content["images"]]
    annotations = [each for content in contents for each in content["annotations"]]
    by_id = {image["id"]: image for image in real}
    outlines = [
        _outline(each, by_id[each["image_id"]]) for each in annotations if _has_polygons(each)
    ]
    if not outlines:
        raise BenchmarkError(f"--data-root {data_root} has no object with a polygon to draw from")
    owners = Counter(each["image_id"] for each in annotations)
    crowds: dict[int, list[dict]] = {}
    for each in annotations:
        if each["iscrowd"]:
            crowds.setdefault(each["image_id"], []).append(each)
    return Subset(
        real,
        [owners[image["id"]] for image in real],
        crowds,
        outlines,
        contents[0]["categories"],
    )


def _has_polygons(annotation: Mapping) -> bool:
    return not annotation["iscrowd"] and isinstance(annotation["segmentation"], list)


def _outline(annotation: Mapping, image: Mapping) -> Outline:
    polygons = [np.array(each).reshape(-1, 2) for each in annotation["segmentation"]]
    points = np.concatenate(polygons)
    size = np.array([image["width"], image["height"]])
    low = points.min(axis=0)
    extent = np.maximum(points.max(axis=0) - low, 1e-6)
    box = np.concatenate([low / size, extent / size])
    parts = tuple(len(each) for each in polygons)
    return Outline((points - low) / extent, parts, box, annotation["category_id"])
