"""What the formats share: one form of a labelled picture for readers and writers, and files."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mmconvnext.data.masks import encode, extent, outlines, run_lengths
from mmconvnext.data.paths import write_whole
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


class Shape(NamedTuple):
    """An object.

    Attributes:
        label: the name of its class.
        polygons: x1, y1, x2, y2, ... in pixels for each part; or, by a reader, run-length codes.
        box: x, y, width, height in pixels; of the mask where a reader does not give it.
        crowd: whether it is several objects, or for another reason neither right nor wrong.
        score: of a prediction.
    """

    label: str
    polygons: Sequence[Sequence[float]] | Mapping[str, Any] = ()
    box: Sequence[float] | None = None
    crowd: bool = False
    score: float | None = None


class Labelled(NamedTuple):
    """A picture and its objects, as every reader gives them and every writer takes them.

    Attributes:
        split: that it is in.
        name: of the file, below the split's folder.
        size: width and height in pixels.
        shapes: the objects.
    """

    split: str
    name: str
    size: tuple[int, int]
    shapes: list[Shape]


@dataclass
class CocoBuilder:
    """Builds a COCO file object by object, with ids from 1."""

    classes: Iterable[str] = ()
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = {name: index for index, name in enumerate(self.classes, start=1)}

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
        """Add an object to the last image; see :class:`Shape`, ``more`` are other keys."""
        image = self.images[-1]
        entry: dict[str, Any] = {"id": len(self.annotations) + 1, "image_id": image["id"]}
        entry["category_id"] = self._ids.setdefault(name, len(self._ids) + 1)
        if polygons:
            encoded = encode(polygons, image["width"], image["height"])
            entry |= {"segmentation": polygons, "area": float(coco_mask.area(encoded))}
            box = extent(polygons, encoded) if box is None else box
        else:
            entry["area"] = float(box[2] * box[3])
        entry["bbox"] = [float(value) for value in box]
        self.annotations.append({**entry, "iscrowd": 0, **more})

    def content(self) -> dict[str, Any]:
        """The whole file."""
        categories = [{"id": index, "name": name} for name, index in self._ids.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def make_splits(
    pictures: Iterable[Labelled], folders: Path | Mapping[str, Path], classes: Sequence[str] = ()
) -> dict[str, Split]:
    """Splits of labelled pictures.

    Args:
        pictures: of all splits.
        folders: of each split's pictures, or that of all.
        classes: in their order; others that pictures have come after them, by name.
    """
    pictures = list(pictures)
    others = {shape.label for each in pictures for shape in each.shapes} - {*classes}
    if isinstance(folders, Path):
        folders = {each.split: folders for each in pictures}
    splits = {}
    for split, folder in folders.items():
        builder = CocoBuilder([*classes, *sorted(others)])
        for each in pictures:
            if each.split == split:
                builder.image(each.name, *each.size)
                for shape in each.shapes:
                    builder.add(*shape[:3], iscrowd=int(shape.crowd))
        splits[split] = Split(folder, builder.content())
    return splits


def place_pictures(splits: Mapping[str, Split], root: Path, place: str) -> Iterator[Labelled]:
    """Put the pictures of splits into a new data set, and give what they show.

    Args:
        splits: by name.
        root: of the new data set.
        place: in ``root``; ``{split}`` stands for the split's name. In one folder for all, it is
            put in front of the files' names where one is in two splits, but for its ending.

    Returns:
        Each picture, named relative to ``place``; masks are polygons.
    """
    names = [{stem_of(i) for i in split.content["images"]} for split in splits.values()]
    twice = "{split}" not in place and sum(map(len, names)) > len(set().union(*names))
    for split, each in splits.items():
        start = f"{split}/" if twice else ""
        bring_pictures(each, root / place.format(split=split) / start)
        labels = {category["id"]: category["name"] for category in each.content["categories"]}
        shapes = defaultdict(list)
        for entry in each.content["annotations"]:
            shapes[entry["image_id"]].append((labels[entry["category_id"]], entry))
        for image in each.content["images"]:
            found = [_shape(*pair, image) for pair in shapes[image["id"]]]
            size = (image["width"], image["height"])
            yield Labelled(split, start + image["file_name"], size, found)


def stem_of(image: Mapping[str, Any]) -> str:
    """The path of an image without its ending."""
    return str(Path(image["file_name"]).with_suffix(""))


def bring_pictures(split: Split, folder: Path) -> None:
    """Put the pictures of a split into a folder, as links to the same data where possible.

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


def _shape(label: str, entry: Mapping[str, Any], image: Mapping[str, Any]) -> Shape:
    mask = entry.get("segmentation") or []
    if isinstance(mask, Mapping):
        bitmap = coco_mask.decode(encode(mask, image["width"], image["height"]))
        mask = [polygon.tolist() for polygon in outlines(bitmap)]
    return Shape(label, mask, entry["bbox"], bool(entry.get("iscrowd")), entry.get("score"))


def class_names(splits: Mapping[str, Split]) -> list[str]:
    """The classes of all splits, in the order of the first, then of what others add."""
    names = (c["name"] for split in splits.values() for c in split.content["categories"])
    return list(dict.fromkeys(names))


def parts_of_objects(shapes: Iterable[Any], group: Callable[[Any], Hashable]) -> list[list[Any]]:
    """Shapes of one group, which are parts of one object; those of the group None are alone."""
    groups: dict[Hashable, list[Any]] = {}
    for index, shape in enumerate(shapes):
        key = group(shape)
        groups.setdefault(("alone", index) if key is None else key, []).append(shape)
    return list(groups.values())


def whole_mask(bitmap: NDArray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Run-length codes of a bitmap (height, width) that lies somewhere in a picture."""
    whole = np.zeros(size[::-1], np.uint8)
    place = whole[top : top + bitmap.shape[0], left : left + bitmap.shape[1]]
    place[:] = bitmap[: place.shape[0], : place.shape[1]]
    return run_lengths(whole)


def scaled(values: Iterable[float], factors: Sequence[float]) -> list[float]:
    """x, y, x, y, ... times a factor for each of x and y."""
    return [value * factor for value, factor in zip(values, cycle(factors), strict=False)]


def points_of(values: Sequence[float]) -> list[list[float]]:
    """x1, y1, x2, y2, ... as points [x, y]."""
    return np.asarray(values, dtype=float).reshape(-1, 2).tolist()


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


def read_json(path: Path, start: bytes = b"", word: bytes = b"") -> Any:
    """Read a JSON file; None where it does not start so, or lacks a word in its first megabyte.

    Raises:
        DataError: it is not JSON.
    """
    with path.open("rb") as file:
        head = file.read(1 << 20)
    if not head.lstrip().startswith(start) or word not in head:
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read, too."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1))


def read_xml(path: Path) -> Element:
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


def element(tag: str, content: Any = "", **attributes: str) -> Element:
    """An XML element of text, of elements, or of what a dict has: lists are repeated tags."""
    node = Element(tag, attributes)
    if isinstance(content, Mapping):
        for key, value in content.items():
            each = value if isinstance(value, list) else [value]
            node.extend(e if isinstance(e, Element) else element(key, e) for e in each)
    else:
        node.text = str(content) or None
    return node


def write_xml(path: Path, tree: Element) -> None:
    """Write an XML file, indented."""
    ElementTree.indent(tree)
    text = ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True)
    write_whole(path, text.decode())
