"""labelme's layout: a JSON file of shapes beside each picture.

Shapes of one ``group_id`` and class are parts of one object; a shape without one is an object.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmconvnext.data.formats import common
from mmconvnext.data.formats.common import Labelled, Shape, Split
from mmconvnext.data.pictures import Size
from mmconvnext.errors import DataError

CIRCLE_CORNERS = 64


def find(root: Path) -> dict[Path, dict[str, Any]]:
    """Labelme's files in a folder, without the pictures that may be in them."""
    found = {}
    for path in sorted(root.rglob("*.json")):
        content = common.read_json(path, b"{", b'"shapes"') or {}
        if "shapes" in content:
            found[path] = {**content, "imageData": None}
    return found


def read(root: Path, found: Mapping[Path, dict[str, Any]]) -> dict[str, Split]:
    """The splits of a folder: its folders of such names, or all as ``train``."""
    finder, pictures = common.PictureFinder(root), []
    for split, path in common.in_splits(root, found):
        name, size = finder.find(path, str(found[path].get("imagePath") or ""), path.stem)
        shapes = [(e.get("group_id"), _shape(path, e, size)) for e in found[path]["shapes"]]
        pictures.append(Labelled(split, name, size, common.merged(shapes, size)))
    return common.make_splits(pictures, root)


def _shape(path: Path, entry: Mapping[str, Any], size: Size) -> Shape:
    points, kind = entry["points"], entry.get("shape_type", "polygon")
    crowd = bool((entry.get("flags") or {}).get("iscrowd"))
    word, _, score = str(entry.get("description") or "").partition(" ")
    score = common.score_of(score) if word == "score" else None
    shape = Shape(str(entry.get("label")), crowd=crowd, score=score)
    if kind == "mask":
        return shape._replace(polygons=_mask(path, entry, size))
    if kind == "rectangle":
        (x1, x2), (y1, y2) = map(sorted, zip(*points, strict=True))
        return shape._replace(box=[x1, y1, x2 - x1, y2 - y1])
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = (2 * math.pi * i / CIRCLE_CORNERS for i in range(CIRCLE_CORNERS))
        points = [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in angles]
    elif kind != "polygon":
        raise DataError(
            f"{path}: a shape of type {kind!r} has no area; use polygon, rectangle, circle or mask"
        )
    return shape._replace(polygons=[list(map(float, chain.from_iterable(points)))])


def _mask(path: Path, entry: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Run-length codes of a bitmap that lies between two points."""
    try:
        data = base64.b64decode(entry["mask"])
        bitmap = np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 0
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: the mask of {entry.get('label')!r} is broken: {error}") from None
    left, top = map(int, entry["points"][0])
    return common.whole_mask(bitmap, left, top, size)


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write splits as folders of pictures and files; masks become polygons."""
    place = "{split}" if len(splits) > 1 else ""
    for split, name, (width, height), shapes in common.place_pictures(splits, root, place):
        path = root / place.format(split=split) / name
        content = {"version": "5.5.0", "flags": {}}
        content["shapes"] = [part for i, shape in enumerate(shapes) for part in _parts(shape, i)]
        content |= {"imagePath": path.name, "imageData": None}
        content |= {"imageHeight": height, "imageWidth": width}
        common.write_json(path.with_suffix(".json"), content)


def _parts(shape: Shape, group: int) -> list[dict[str, Any]]:
    x, y, w, h = shape.box
    parts = [common.points_of(p) for p in shape.polygons] or [[[x, y], [x + w, y + h]]]
    facts = {
        "label": shape.label,
        "group_id": group if len(parts) > 1 else None,
        "description": "" if shape.score is None else f"score {shape.score:.9g}",
        "shape_type": "polygon" if shape.polygons else "rectangle",
        "flags": {"iscrowd": True} if shape.crowd else {},
        "mask": None,
    }
    return [{**facts, "points": points} for points in parts]
