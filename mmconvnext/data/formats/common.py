"""What the formats share: one form of a labelled picture for readers and writers, and files."""

from __future__ import annotations

import json
import os
import shutil
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mmconvnext.data.masks import encode, extent, outlines, run_lengths
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import Size, picture_size
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
    """A part of a data set, as in a COCO file whose entries have the keys that refer to others."""

    folder: Path  # of the pictures; ``file_name`` is relative to it
    content: dict[str, Any]
    path: Path | None = None  # of the annotation file, where the data is a COCO file as it is
    notes: Sequence[str] = ()  # what was read otherwise than it is written, in lines

    @property
    def place(self) -> Path:
        """What messages call it."""
        return self.path or self.folder


class Shape(NamedTuple):
    """An object: its class, where it is, in pixels, and a prediction's score."""

    label: str
    # x1, y1, x2, y2, ... for each part; or, by a reader, run-length codes
    polygons: Sequence[Sequence[float]] | Mapping[str, Any] = ()
    box: Sequence[float] | None = None  # x, y, width, height; None is that of the mask
    crowd: bool = False  # or for another reason neither right nor wrong
    score: float | None = None


class Labelled(NamedTuple):
    """A picture, named below its split's folder, and its objects: what every reader gives."""

    split: str
    name: str
    size: Size
    shapes: list[Shape]


def make_splits(
    pictures: Iterable[Labelled], folders: Path | Mapping[str, Path], classes: Iterable[str] = ()
) -> dict[str, Split]:
    """Splits of labelled pictures, with ids from 1.

    ``folders`` has each split's pictures, or those of all. Classes are in their order; others that
    pictures have come after them, by name.
    """
    pictures = list(pictures)
    others = {shape.label for each in pictures for shape in each.shapes} - {*classes}
    ids = {name: index for index, name in enumerate([*classes, *sorted(others)], start=1)}
    if isinstance(folders, Path):
        folders = {each.split: folders for each in pictures}
    splits = {}
    for split, folder in folders.items():
        images, annotations = [], []
        for _, name, (width, height), shapes in (p for p in pictures if p.split == split):
            image = {"id": len(images) + 1, "file_name": name, "width": width, "height": height}
            images.append(image)
            for shape in shapes:
                keys = {"id": len(annotations) + 1, "image_id": image["id"]}
                keys["category_id"] = ids[shape.label]
                annotations.append(keys | _annotation(shape, width, height))
        categories = [{"id": index, "name": name} for name, index in ids.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        splits[split] = Split(folder, content)
    return splits


def _annotation(shape: Shape, width: int, height: int) -> dict[str, Any]:
    entry, box = {}, shape.box
    if shape.polygons:
        encoded = encode(shape.polygons, width, height)
        entry["segmentation"] = shape.polygons
        box = extent(shape.polygons, encoded) if box is None else box
    if shape.score is not None:
        entry["score"] = shape.score
    area = float(coco_mask.area(encoded) if shape.polygons else box[2] * box[3])
    return entry | {"area": area, "bbox": list(map(float, box)), "iscrowd": int(shape.crowd)}


def place_pictures(splits: Mapping[str, Split], root: Path, place: str) -> Iterator[Labelled]:
    """Put the pictures of splits into a place below ``root``, and give them named relative to it.

    ``{split}`` in the place stands for the split's name. In one folder for all, it is put in front
    of the files' names where one is in two splits, but for its ending. Masks become polygons.
    """
    names = [{stem_of(i["file_name"]) for i in s.content["images"]} for s in splits.values()]
    twice = "{split}" not in place and sum(map(len, names)) > len(set().union(*names))
    for split, each in splits.items():
        start = f"{split}/" if twice else ""
        bring_pictures(each, root / place.format(split=split) / start)
        labels = {category["id"]: category["name"] for category in each.content["categories"]}
        objects = defaultdict(list)
        for entry in each.content["annotations"]:
            objects[entry["image_id"]].append(entry)
        for image in each.content["images"]:
            size = (image["width"], image["height"])
            shapes = []
            for entry in objects[image["id"]]:
                mask, crowd = entry.get("segmentation") or [], bool(entry.get("iscrowd"))
                if isinstance(mask, Mapping):
                    bitmap = coco_mask.decode(encode(mask, *size))
                    mask = [polygon.tolist() for polygon in outlines(bitmap)]
                label, score = labels[entry["category_id"]], entry.get("score")
                shapes.append(Shape(label, mask, entry["bbox"], crowd, score))
            yield Labelled(split, start + image["file_name"], size, shapes)


def stem_of(name: str) -> str:
    """The path of a picture without its ending."""
    return str(Path(name).with_suffix(""))


def bring_pictures(split: Split, folder: Path) -> None:
    """Put a split's pictures into a folder, as hard links to the same data where possible."""
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


def class_names(splits: Mapping[str, Split]) -> list[str]:
    """The classes of all splits, in the order of the first, then of what others add."""
    names = (c["name"] for split in splits.values() for c in split.content["categories"])
    return list(dict.fromkeys(names))


def merged(parts: Iterable[tuple[Hashable, Shape]], size: Size) -> list[Shape]:
    """Objects of (group, shape): those of one group (but None) and label are parts of one."""
    groups: dict[Hashable, list[Shape]] = defaultdict(list)
    for index, (group, shape) in enumerate(parts):
        groups[index if group is None else (group, shape.label)].append(shape)
    return [shapes[0] if len(shapes) == 1 else _union(shapes, size) for shapes in groups.values()]


def _union(shapes: Sequence[Shape], size: Size) -> Shape:
    masks = []
    for shape in shapes:
        x, y, w, h = shape.box or (0, 0, 0, 0)
        masks.append(shape.polygons or [[x, y, x + w, y, x + w, y + h, x, y + h]])
    if any(isinstance(mask, Mapping) for mask in masks):
        whole = coco_mask.merge([encode(mask, *size) for mask in masks])
        return shapes[0]._replace(polygons=run_lengths(coco_mask.decode(whole)), box=None)
    return shapes[0]._replace(polygons=list(chain.from_iterable(masks)), box=None)


def score_of(value: Any) -> float | None:
    """The score of a prediction that a tool kept, or None where there is none."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        return None
    return score if 0 <= score <= 1 else None


def whole_mask(bitmap: NDArray, left: int, top: int, size: Size) -> dict[str, Any]:
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
    places = os.walk(folder, followlinks=True)
    return sorted(
        Path(place, name)
        for place, _, names in places
        for name in names
        if name.lower().endswith(PICTURES)
    )


class PictureFinder:
    """Finds the pictures that annotation files name, wherever they lie below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, list[Path]] = defaultdict(list)
        for path in pictures_in(root):
            for name in (path.name, path.stem):
                self._known[name].append(path)

    def find(self, owner: Path, *names: str) -> tuple[str, Size]:
        """The path below the folder, and the size, of the picture of the first of some names.

        A name is a path, the end of one, or that without the ending. Of pictures of one name, that
        which is nearest to the annotation file, ``owner``, is meant.
        """
        for given in names:
            parts = [p for p in given.replace("\\", "/").split("/") if p not in ("", ".", "..")]
            for ending in ("/".join(parts), parts[-1]) if parts else ():
                found = [
                    path
                    for path in self._known[parts[-1]]
                    if f"/{path}".endswith(f"/{ending}")
                    or f"/{path.with_suffix('')}".endswith(f"/{ending}")
                ]
                near = [_nearness(path, owner) for path in found]
                if found and near.count(max(near)) == 1:
                    path = found[near.index(max(near))]
                    return path.relative_to(self.root).as_posix(), picture_size(path)
        name = names[0] or names[-1]
        raise DataError(
            f"{owner}: its picture {name} is not below {self.root}, or several are: put it there, "
            "once"
        )


def _nearness(path: Path, owner: Path) -> tuple[int, bool]:
    return len(os.path.commonpath((path, owner))), path.with_suffix("") == owner.with_suffix("")


def split_of(name: str) -> str | None:
    """Which split a folder's or a file's name stands for: ``valid`` is ``val``."""
    words = set(name.lower().replace("-", "_").split("_"))
    found = [split for split, names in SPLIT_NAMES.items() if words & set(names)]
    return found[0] if len(found) == 1 else None


def in_splits(root: Path, paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Files by the folders of splits that they are in; all are ``train`` where there are none."""
    folders: dict[str, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and split_of(p.name)):
        other = folders.setdefault(split_of(folder.name), folder)
        if other != folder:
            raise DataError(f"{other} and {folder} are both {split_of(folder.name)}: remove one")
    folders = folders or {"train": root}
    return [(s, path) for s, f in folders.items() for path in paths if path.is_relative_to(f)]


def read_json(path: Path, start: bytes = b"", word: bytes = b"") -> Any:
    """Read a JSON file; None where it does not start so, or lacks a word in its first megabyte."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    if not head.removeprefix(BOM_UTF8).lstrip().startswith(start) or word not in head:
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read, too."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1))


def read_xml(path: Path) -> Element:
    """Read an XML file, but for one with a document type, which could expand without bound."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path} has a document type, which annotations need not")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 (without a document type)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from None


def element(tag: str, content: Any = "", **attributes: str) -> Element:
    """An XML element of text, or of what a dict has: elements, dicts, lists of repeated tags."""
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
