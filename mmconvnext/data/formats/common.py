"""What the formats share: splits, building a COCO file, polygons of objects, pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from mmconvnext.data.outlines import outlines
from mmconvnext.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
# What folders and files are called, for the splits of here.
SPLIT_NAMES = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "testing", "test2017"),
}


@dataclass
class Split:
    """A part of a data set.

    Attributes:
        folder: of the pictures; ``file_name`` is relative to it.
        content: as in a COCO file.
        path: of the annotation file, where the data is a COCO file as it is.
    """

    folder: Path
    content: dict[str, Any]
    path: Path | None = None


@dataclass
class CocoBuilder:
    """Builds a COCO file object by object, with ids from 1."""

    classes: Sequence[str] = ()
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.classes:
            self.category(name)

    def category(self, name: str) -> int:
        """The id of a category, a new one if it is not there yet."""
        return self._ids.setdefault(name, len(self._ids) + 1)

    def image(self, file_name: str, width: int, height: int) -> None:
        """Add an image; the objects that are added next are on it."""
        size = {"width": int(width), "height": int(height)}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, **size})

    def add(
        self,
        name: str,
        polygons: Sequence[Sequence[float]] | Mapping[str, Any] | None = None,
        box: Sequence[float] | None = None,
        **more: Any,
    ) -> None:
        """Add an object to the last image.

        Args:
            name: of its class.
            polygons: x1, y1, x2, y2, ... in pixels for each part; or run-length codes.
            box: x, y, width, height in pixels; of the mask if it is not given.
            **more: other keys, such as ``iscrowd``.
        """
        entry: dict[str, Any] = {"id": len(self.annotations) + 1, "image_id": self.images[-1]["id"]}
        entry["category_id"] = self.category(name)
        image = self.images[-1]
        if polygons:
            encoded = encode(polygons, image["width"], image["height"])
            entry["segmentation"] = polygons
            entry["area"] = float(coco_mask.area(encoded))
            if box is None:
                box = extent(polygons, encoded)
        else:
            entry["area"] = float(box[2] * box[3])
        entry["bbox"] = [float(value) for value in box]
        self.annotations.append({**entry, "iscrowd": 0, **more})

    def content(self) -> dict[str, Any]:
        """The whole file."""
        categories = [{"id": index, "name": name} for name, index in self._ids.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def encode(mask: Sequence | Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """A mask as compressed run-length codes."""
    if isinstance(mask, Mapping):
        compressed = not isinstance(mask["counts"], list)
        return dict(mask) if compressed else coco_mask.frPyObjects(mask, height, width)
    return coco_mask.merge(coco_mask.frPyObjects([list(p) for p in mask], height, width))


def extent(mask: Sequence | Mapping[str, Any], encoded: Mapping[str, Any]) -> list[float]:
    """The box around a mask."""
    if isinstance(mask, Mapping):
        return coco_mask.toBbox(encoded).tolist()
    xs = list(chain.from_iterable(polygon[0::2] for polygon in mask))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in mask))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def polygons_of(entry: Mapping[str, Any], image: Mapping[str, Any]) -> list[list[float]]:
    """The polygons of an object: those of its mask, or none where it has only a box."""
    mask = entry.get("segmentation")
    if not mask:
        return []
    if isinstance(mask, Mapping):
        bitmap = coco_mask.decode(encode(mask, image["width"], image["height"]))
        return [polygon.tolist() for polygon in outlines(bitmap)]
    return [list(polygon) for polygon in mask]


def objects_of(content: Mapping[str, Any]) -> Iterator[tuple[dict, list[tuple[dict, str]]]]:
    """Each image with its objects and the names of their classes."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    by_image: dict[Any, list[tuple[dict, str]]] = {}
    for entry in content["annotations"]:
        named = (entry, names[entry["category_id"]])
        by_image.setdefault(entry["image_id"], []).append(named)
    for image in content["images"]:
        yield image, by_image.get(image["id"], [])


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is loaded, turned as EXIF says.

    Raises:
        DataError: it is absent or no picture.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) > 4
            return image.size[::-1] if turned else image.size
    except FileNotFoundError:
        raise DataError(f"the picture {path} does not exist") from None
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is no picture that can be read: {error}") from None


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder and of those in it, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)


def split_of(name: str) -> str | None:
    """Which split a folder's or a file's name stands for: ``valid`` is ``val``."""
    words = set(name.lower().replace("-", "_").split("_"))
    found = [split for split, names in SPLIT_NAMES.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits in a folder; the whole folder as ``train`` where there are none."""
    found: dict[str, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        split = split_of(folder.name)
        if split and split in found:
            raise DataError(f"{found[split]} and {folder} are both {split}: remove one of them")
        if split:
            found[split] = folder
    return found or {"train": root}


def prefixes(splits: Mapping[str, Split]) -> dict[str, str]:
    """What keeps the pictures of splits apart in one folder, where a name is in two of them."""
    names = [{image["file_name"] for image in split.content["images"]} for split in splits.values()]
    twice = sum(map(len, names)) > len(set().union(*names))
    return {split: f"{split}/" if twice else "" for split in splits}


def bring_pictures(split: Split, folder: Path) -> None:
    """Put the pictures of a split into a folder, as links to the same data where that is possible.

    Raises:
        DataError: a picture is absent, or its name leaves the folder.
    """
    for image in split.content["images"]:
        source, target = split.folder / image["file_name"], folder / image["file_name"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"the picture {image['file_name']} is not below {split.folder}")
        if not source.is_file():
            raise DataError(f"the picture {source} does not exist")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


def parse_xml(path: Path) -> Element:
    """Read an XML file.

    Raises:
        DataError: it is none, or has a document type, which could expand without bound.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path} has a document type, which annotations need not")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from None


def pairs(points: Sequence[float]) -> list[list[float]]:
    """x1, y1, x2, y2, ... as points [x, y]."""
    return np.asarray(points, dtype=float).reshape(-1, 2).tolist()
