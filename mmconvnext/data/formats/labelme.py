"""labelme's layout: a JSON file of shapes beside each picture.

Shapes of one ``group_id`` and class are parts of one object; a shape without one is an object.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmconvnext.data.formats.common import (
    CocoBuilder,
    Split,
    bring_pictures,
    objects_of,
    pairs,
    picture_size,
    polygons_of,
    split_folders,
)
from mmconvnext.errors import DataError

CIRCLE_CORNERS = 64


def find(root: Path) -> list[Path]:
    """Labelme's files in a folder."""
    return [path for path in sorted(root.rglob("*.json")) if _load(path) is not None]


def _load(path: Path) -> dict[str, Any] | None:
    with path.open("rb") as file:
        if b'"shapes"' not in file.read(1 << 20):
            return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    return content if isinstance(content, dict) and "shapes" in content else None


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder: its folders of such names, or all as ``train``."""
    files = {split: find(folder) for split, folder in split_folders(root).items()}
    contents = {path: _load(path) for paths in files.values() for path in paths}
    names = {str(s.get("label")) for c in contents.values() for s in c["shapes"]}
    splits = {}
    for split, paths in files.items():
        builder = CocoBuilder(sorted(names))
        for path in paths:
            _read_file(root, path, contents[path], builder)
        if paths:
            splits[split] = Split(root, builder.content())
    return splits


def _read_file(root: Path, path: Path, content: Mapping[str, Any], builder: CocoBuilder) -> None:
    given = str(content.get("imagePath") or "").replace("\\", "/")
    picture = (path.parent / given).resolve() if given else path
    if not picture.is_file():  # it was moved together with its file
        picture = path.parent.resolve() / Path(given).name
    try:
        name = picture.relative_to(root.resolve()).as_posix()
    except ValueError:
        raise DataError(f"{path}: imagePath {given} leaves {root}") from None
    builder.image(name, *picture_size(picture))
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for index, shape in enumerate(content["shapes"]):
        group = shape.get("group_id")
        key = ("alone", index) if group is None else (group, shape.get("label"))
        groups.setdefault(key, []).append(shape)
    for shapes in groups.values():
        label, flags = str(shapes[0].get("label")), shapes[0].get("flags") or {}
        more = {"iscrowd": int(bool(flags.get("iscrowd")))}
        if any(shape.get("shape_type") == "mask" for shape in shapes):
            builder.add(label, _mask(path, shapes[0], builder.images[-1]), **more)
        elif all(shape.get("shape_type") == "rectangle" for shape in shapes):
            (x1, x2), (y1, y2) = map(sorted, zip(*shapes[0]["points"], strict=True))
            builder.add(label, box=[x1, y1, x2 - x1, y2 - y1], **more)
        else:
            builder.add(label, [_polygon(path, shape) for shape in shapes], **more)


def _polygon(path: Path, shape: Mapping[str, Any]) -> list[float]:
    points, kind = shape["points"], shape.get("shape_type", "polygon")
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points
        points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    elif kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = (2 * math.pi * i / CIRCLE_CORNERS for i in range(CIRCLE_CORNERS))
        points = [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in angles]
    elif kind != "polygon":
        raise DataError(
            f"{path}: a shape of type {kind!r} has no area; use polygon, rectangle, circle or mask"
        )
    return [float(value) for point in points for value in point]


def _mask(path: Path, shape: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Run-length codes of a bitmap that lies between two points."""
    try:
        data = base64.b64decode(shape["mask"])
        bitmap = np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 0
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: the mask of {shape.get('label')!r} is broken: {error}") from None
    x, y = (int(value) for value in shape["points"][0])
    whole = np.zeros((image["height"], image["width"]), np.uint8)
    place = whole[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
    place[:] = bitmap[: place.shape[0], : place.shape[1]]
    encoded = coco_mask.encode(np.asfortranarray(whole))
    return {"size": list(whole.shape), "counts": encoded["counts"].decode()}


def write(splits: Mapping[str, Split], root: Path) -> list[str]:
    """Write splits as folders of pictures and files; masks become polygons."""
    for split, each in splits.items():
        folder = root / split if len(splits) > 1 else root
        bring_pictures(each, folder)
        for image, objects in objects_of(each.content):
            shapes = []
            for group, (entry, name) in enumerate(objects):
                shapes += _shapes(entry, name, image, group)
            content = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": Path(image["file_name"]).name,
                "imageData": None,
                "imageHeight": image["height"],
                "imageWidth": image["width"],
            }
            path = (folder / image["file_name"]).with_suffix(".json")
            text = json.dumps(content, ensure_ascii=False, indent=1)
            path.write_text(text, encoding="utf-8")
    return []


def _shapes(entry: Mapping, name: str, image: Mapping, group: int) -> list[dict[str, Any]]:
    polygons = polygons_of(entry, image)
    x, y, w, h = entry["bbox"]
    parts = [pairs(p) for p in polygons] or [[[x, y], [x + w, y + h]]]
    flags = {"iscrowd": True} if entry.get("iscrowd") else {}
    score = entry.get("score")
    return [
        {
            "label": name,
            "points": points,
            "group_id": group if len(parts) > 1 else None,
            "description": "" if score is None else f"score {score:.4f}",
            "shape_type": "polygon" if polygons else "rectangle",
            "flags": flags,
            "mask": None,
        }
        for points in parts
    ]
