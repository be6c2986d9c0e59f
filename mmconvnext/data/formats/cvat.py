"""CVAT's own XML, "CVAT for images 1.1"; its COCO export is read as any COCO file.

Shapes of one ``group_id`` and label are parts of one object; 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from mmconvnext.data.formats import common
from mmconvnext.data.formats.common import Labelled, Shape, Split
from mmconvnext.data.pictures import Size
from mmconvnext.errors import DataError

KINDS = ("box", "polygon", "mask")
OTHER_KINDS = ("polyline", "points", "ellipse", "cuboid", "skeleton")


def find(root: Path) -> dict[Path, Element]:
    """CVAT's files in a folder."""
    paths = sorted({*root.glob("*.xml"), *root.glob("*/*.xml")})
    trees = {path: common.read_xml(path) for path in paths}
    return {path: tree for path, tree in trees.items() if tree.tag == "annotations"}


def read(root: Path, found: Mapping[Path, Element]) -> dict[str, Split]:
    """The splits of a folder: the subsets of its pictures, or all as ``train``."""
    names = {label.findtext("name", "") for tree in found.values() for label in tree.iter("label")}
    pictures = [_read(path, image) for path, tree in found.items() for image in tree.iter("image")]
    names |= {shape.label for picture in pictures for shape in picture.shapes}
    folder = root / "images" if (root / "images").is_dir() else root
    return common.make_splits(pictures, folder, sorted(names - {""}))


def _read(path: Path, image: Element) -> Labelled:
    split = common.split_of(image.get("subset") or path.stem) or "train"
    size = (int(image.get("width")), int(image.get("height")))
    name, shapes = image.get("name"), []
    for node in image:
        if node.tag in OTHER_KINDS:
            raise DataError(f"{path}: a {node.tag} on {name} is neither box, polygon nor mask")
        if node.tag in KINDS:
            group = node.get("group_id") or "0"
            shapes.append((None if group == "0" else group, _shape(node, size)))
    return Labelled(split, name, size, common.merged(shapes, size))


def _shape(node: Element, size: Size) -> Shape:
    attributes = {each.get("name"): each.text for each in node.iter("attribute")}
    score = common.score_of(attributes.get("score"))
    shape = Shape(node.get("label", ""), crowd=attributes.get("iscrowd") == "true", score=score)
    if node.tag == "mask":
        return shape._replace(polygons=_mask(node, size))
    if node.tag == "box":
        x1, y1, x2, y2 = (float(node.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        return shape._replace(box=[x1, y1, x2 - x1, y2 - y1])
    values = node.get("points").replace(";", ",").split(",")
    return shape._replace(polygons=[list(map(float, values))])


def _mask(node: Element, size: Size) -> dict[str, Any]:
    """COCO's codes for CVAT's, which run along the rows of a box."""
    left, top, width, height = (int(node.get(key)) for key in ("left", "top", "width", "height"))
    # no count asks for more memory than the box has pixels
    counts = [min(int(count), width * height) for count in node.get("rle").split(",")]
    bits = np.repeat(np.arange(len(counts)) % 2, counts)[: width * height]
    return common.whole_mask(bits.reshape(height, width), left, top, size)


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write all splits into ``annotations.xml``, as subsets; masks become polygons."""
    labels = [_label(name) for name in common.class_names(splits)]
    meta = {"task": {"labels": {"label": labels}}}
    tree = common.element("annotations", {"version": "1.1", "meta": meta})
    for index, (split, name, size, shapes) in enumerate(
        common.place_pictures(splits, root, "images")
    ):
        size = dict(zip(("width", "height"), map(str, size), strict=True))
        image = common.element("image", id=str(index), name=name, subset=split, **size)
        for group, shape in enumerate(shapes, start=1):
            image.extend(_parts(shape, group))
        tree.append(image)
    common.write_xml(root / "annotations.xml", tree)


def _label(name: str) -> dict[str, Any]:
    attributes = [
        {"name": attribute, "mutable": "False", "input_type": kind}
        | {"default_value": default, "values": default}
        for attribute, kind, default in (("iscrowd", "checkbox", "false"), ("score", "text", ""))
    ]
    return {"name": name, "type": "any", "attributes": {"attribute": attributes}}


def _parts(shape: Shape, group: int) -> list[Element]:
    source = "manual" if shape.score is None else "auto"
    facts = {"label": shape.label, "source": source, "occluded": "0", "z_order": "0"}
    facts["group_id"] = str(group if len(shape.polygons) > 1 else 0)
    x, y, w, h = shape.box
    ends = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
    places = [
        {"points": ";".join(f"{x:.12g},{y:.12g}" for x, y in common.points_of(polygon))}
        for polygon in shape.polygons
    ] or [{key: f"{value:.12g}" for key, value in ends.items()}]
    kind = "polygon" if shape.polygons else "box"
    parts = [common.element(kind, **facts, **place) for place in places]
    for part in parts:
        if shape.crowd:
            part.append(common.element("attribute", "true", name="iscrowd"))
        if shape.score is not None:
            part.append(common.element("attribute", f"{shape.score:.9g}", name="score"))
    return parts
