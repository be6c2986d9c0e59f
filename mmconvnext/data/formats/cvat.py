"""CVAT's own XML, "CVAT for images 1.1"; its COCO export is read as any COCO file.

Shapes of one ``group_id`` and label are parts of one object; 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from pycocotools import mask as coco_mask

from mmconvnext.data.formats.common import (
    CocoBuilder,
    Split,
    bring_pictures,
    objects_of,
    pairs,
    parse_xml,
    polygons_of,
    prefixes,
    split_of,
)
from mmconvnext.errors import DataError


def find(root: Path) -> list[Path]:
    """CVAT's files in a folder."""
    paths = sorted({*root.glob("*.xml"), *root.glob("*/*.xml")})
    return [path for path in paths if parse_xml(path).tag == "annotations"]


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder: the subsets of its pictures, or all as ``train``."""
    trees = {path: parse_xml(path) for path in find(root)}
    names = {label.findtext("name", "") for tree in trees.values() for label in tree.iter("label")}
    names |= {s.get("label", "") for t in trees.values() for i in t.iter("image") for s in i}
    builders: dict[str, CocoBuilder] = {}
    folder = root / "images" if (root / "images").is_dir() else root
    for path, tree in trees.items():
        for image in tree.iter("image"):
            split = split_of(image.get("subset") or path.stem) or "train"
            builder = builders.setdefault(split, CocoBuilder(sorted(names - {""})))
            builder.image(image.get("name"), image.get("width"), image.get("height"))
            _read_shapes(path, image, builder)
    return {split: Split(folder, builder.content()) for split, builder in builders.items()}


def _read_shapes(path: Path, image: Element, builder: CocoBuilder) -> None:
    groups: dict[Any, list[Element]] = {}
    for index, shape in enumerate(image):
        if shape.tag not in ("box", "polygon", "mask"):
            if shape.tag in ("polyline", "points", "ellipse", "cuboid", "skeleton"):
                raise DataError(
                    f"{path}: a {shape.tag} on {image.get('name')} is neither box, polygon nor mask"
                )
            continue
        group = shape.get("group_id") or "0"
        key = ("alone", index) if group == "0" else (group, shape.get("label"))
        groups.setdefault(key, []).append(shape)
    for shapes in groups.values():
        label = shapes[0].get("label")
        crowd = {a.get("name"): a.text for a in shapes[0].iter("attribute")}.get("iscrowd")
        more = {"iscrowd": int(crowd == "true")}
        if shapes[0].tag == "mask":
            builder.add(label, _mask(shapes[0], builder.images[-1]), **more)
        elif shapes[0].tag == "box":
            x1, y1, x2, y2 = (float(shapes[0].get(k)) for k in ("xtl", "ytl", "xbr", "ybr"))
            builder.add(label, box=[x1, y1, x2 - x1, y2 - y1], **more)
        else:
            texts = [shape.get("points").replace(";", ",") for shape in shapes]
            builder.add(label, [[float(v) for v in text.split(",")] for text in texts], **more)


def _mask(shape: Element, image: Mapping[str, Any]) -> dict[str, Any]:
    """COCO's codes for CVAT's, which run along the rows of a box."""
    left, top, width, height = (int(shape.get(k)) for k in ("left", "top", "width", "height"))
    counts = [int(count) for count in shape.get("rle").split(",")]
    bits = np.repeat(np.arange(len(counts)) % 2, counts)[: width * height].reshape(height, width)
    whole = np.zeros((image["height"], image["width"]), np.uint8)
    whole[top : top + height, left : left + width] = bits
    encoded = coco_mask.encode(np.asfortranarray(whole))
    return {"size": list(whole.shape), "counts": encoded["counts"].decode()}


def write(splits: Mapping[str, Split], root: Path) -> list[str]:
    """Write all splits into ``annotations.xml``, as subsets; masks become polygons."""
    tree = Element("annotations")
    SubElement(tree, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(tree, "meta"), "task"), "labels")
    for category in next(iter(splits.values())).content["categories"]:
        _write_label(SubElement(labels, "label"), category["name"])
    index, starts = 0, prefixes(splits)
    for split, each in splits.items():
        bring_pictures(each, root / "images" / starts[split])
        for image, objects in objects_of(each.content):
            size = {key: str(image[key]) for key in ("width", "height")}
            facts = {
                "id": str(index),
                "name": starts[split] + image["file_name"],
                "subset": split,
                **size,
            }
            node = SubElement(tree, "image", facts)
            index += 1
            for group, (entry, name) in enumerate(objects, start=1):
                _write_object(node, entry, name, image, group)
    ElementTree.indent(tree)
    text = ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True)
    (root / "annotations.xml").write_bytes(text)
    return []


def _write_label(node: Element, name: str) -> None:
    SubElement(node, "name").text = name
    SubElement(node, "type").text = "any"
    attributes = SubElement(node, "attributes")
    for attribute, kind, default in (("iscrowd", "checkbox", "false"), ("score", "text", "")):
        each = SubElement(attributes, "attribute")
        facts = {"name": attribute, "mutable": "False", "input_type": kind}
        for key, value in {**facts, "default_value": default, "values": default}.items():
            SubElement(each, key).text = value


def _write_object(node: Element, entry: Mapping, name: str, image: Mapping, group: int) -> None:
    polygons = polygons_of(entry, image)
    common = {"label": name, "source": "auto" if "score" in entry else "manual", "occluded": "0"}
    common |= {"z_order": "0", "group_id": str(group if len(polygons) > 1 else 0)}
    if polygons:
        texts = (";".join(f"{x:.12g},{y:.12g}" for x, y in pairs(p)) for p in polygons)
        shapes = [SubElement(node, "polygon", {**common, "points": text}) for text in texts]
    else:
        x, y, w, h = entry["bbox"]
        ends = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
        shapes = [SubElement(node, "box", {**common, **{k: f"{v:.12g}" for k, v in ends.items()}})]
    for shape in shapes:
        if entry.get("iscrowd"):
            SubElement(shape, "attribute", {"name": "iscrowd"}).text = "true"
        if "score" in entry:
            SubElement(shape, "attribute", {"name": "score"}).text = f"{entry['score']:.4f}"
