"""One pass over a COCO annotation file: what is wrong in it, and the file as it should be. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmconvnext.data.categories import Entries, Ids, check_categories, key_of
from mmconvnext.data.faults import FAULTS
from mmconvnext.data.findings import Findings
from mmconvnext.data.objects import check_object, is_finite

REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
NO_OBJECTS = "no objects"
# Shares of boxes that are corners (x1, y1, x2, y2) within the picture, and that reach beyond it as
# (x, y, width, height), from which on a file is taken to have corners.
CORNERS, BEYOND = 0.95, 0.25


class Checked(NamedTuple):
    """What :func:`check_annotations` returns.

    Attributes:
        content: the file as it should be; the given one where nothing had to be changed.
        findings: what was wrong.
        classes: the names of the labels 0, 1, 2, ...
    """

    content: dict[str, Any]
    findings: Findings
    classes: tuple[str, ...]


Size = tuple[int, int]  # width and height of a picture as it is loaded, in pixels


def check_annotations(
    content: Any,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    pictures: Mapping[str, Size] | None = None,
    labels: Sequence[str] | None = None,
) -> Checked:
    """Check the content of a COCO annotation file and repair what can be repaired.

    In what it returns, label ``i`` of MMDetection, which numbers the categories in the order of the
    file, is ``labels[i]``; ids are whole numbers, used once; every object has what training and
    evaluation ask for.

    Args:
        content: what the file has, not changed.
        classes: of the config's ``metainfo``; None for those of the file.
        masks: whether objects need masks.
        pictures: sizes by ``file_name``, where pictures were read.
        labels: all classes of the detector in its order, where ``classes`` are some of them.
    """
    findings = Findings()
    if not _check_structure(content, findings):
        return Checked(content, findings, tuple(classes or ()))
    categories, category_ids, classes = check_categories(content, classes, labels, findings)
    images, image_ids = _check_images(content["images"], pictures or {}, findings)
    if findings.of("error"):
        return Checked(content, findings, classes)
    annotations = _check_references(content["annotations"], image_ids, category_ids, findings)
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    _check_box_form([entry for _, entry in annotations], sizes, findings)
    if findings.of("error"):
        return Checked(content, findings, classes)
    annotations = _check_objects(annotations, sizes, masks, findings)
    kept = [annotation for _, annotation in annotations]
    _check_crowds(kept, findings)
    kept = _check_annotation_ids(kept, findings)
    if not findings.of("repair", "fill") and len(kept) == len(content["annotations"]):
        return Checked(content, findings, classes)
    repaired = {**content, "images": images, "annotations": kept, "categories": categories}
    return Checked(repaired, findings, classes)


def _check_structure(content: Any, findings: Findings) -> bool:
    def fault(text: str) -> bool:
        findings.add("not COCO", text=text)
        return False

    if not isinstance(content, dict):
        names = ", ".join(REQUIRED_KEYS)
        return fault(f"it has a {type(content).__name__}, not an object with {names}")
    for name, keys in REQUIRED_KEYS.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            found = ", ".join(map(str, list(content)[:8])) or "nothing"
            return fault(f"it has no list {name!r} (found: {found})")
        for index, entry in enumerate(entries):
            missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if missing:
                return fault(f"{name}[{index}] has no {missing[0]!r}")
    return True


def _check_images(
    entries: Entries, pictures: Mapping[str, Size], findings: Findings
) -> tuple[Entries, Ids]:
    """The images with sizes and with numbers as ids, and the new ids by the old ones."""
    seen: dict[str, str] = {}
    names: dict[str, str] = {}
    images = []
    for index, entry in enumerate(entries):
        key, name = key_of(entry["id"]), entry["file_name"]
        record = f"images[{index}] with id {entry['id']!r}, {name!r}"
        if key is None:
            findings.add("image id", record)
            continue
        if key in seen:
            findings.add("one image id", f"{seen[key]} and {record}")
        name = check_file_name(name, record, findings)
        if name in names:
            findings.add("one file name", f"{names[name]} and {record}")
        seen[key] = names[name] = record
        size = _check_size(entry, pictures.get(name), record, findings)
        changed = {"file_name": name, "width": size[0], "height": size[1]}
        same = all(type(entry.get(k)) is type(v) and entry[k] == v for k, v in changed.items())
        images.append(entry if same else {**entry, **changed})
    if all(type(image["id"]) is int for image in images):
        return images, {key_of(image["id"]): image["id"] for image in images}
    findings.add("image ids")
    ids = {key_of(image["id"]): index for index, image in enumerate(images, start=1)}
    return [{**image, "id": ids[key_of(image["id"])]} for image in images], ids


def check_file_name(name: Any, record: str, findings: Findings) -> str:
    """A picture's path below the data set's folder, with slashes; others are errors."""
    if not isinstance(name, str) or not name.strip():
        findings.add("file name", record)
        return str(name)
    if "://" in name:
        findings.add("URL as file name", record)
        return name
    if "\\" in name:
        findings.add("backslashes in file names", record)
        name = name.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:/", name) or ".." in name.split("/"):
        findings.add("file name outside", record)
    return name


def _check_size(
    entry: Mapping[str, Any], actual: Size | None, record: str, findings: Findings
) -> Size:
    """Width and height of an image: what the file says, and what the picture has."""
    given = [entry.get("width"), entry.get("height")]
    given = [int(v) if isinstance(v, str) and v.strip().isdigit() else v for v in given]
    if not all(is_finite(v) and v > 0 and v == int(v) for v in given):
        if actual is None:
            findings.add("image size", f"{record}: {given[0]!r} x {given[1]!r}")
            return 1, 1
        findings.add("no image size", record)
        return actual
    size = (int(given[0]), int(given[1]))
    if any(type(entry[key]) is not int for key in ("width", "height")):
        findings.add("image sizes of another type", record)
    if actual is not None and size != actual:
        swapped = size == actual[::-1]
        kind = "width and height swapped" if swapped else "another size than the picture's"
        sizes = "{}x{}, the picture has {}x{}".format(*size, *actual)
        findings.add(kind, f"{record}: {sizes}")
    return size


def _check_references(
    entries: Entries, image_ids: Ids, category_ids: Ids, findings: Findings
) -> list[tuple[int, dict[str, Any]]]:
    """The objects whose image and category are there, with their places in the file."""
    kept = []
    for index, entry in enumerate(entries):
        image, category = key_of(entry["image_id"]), key_of(entry["category_id"])
        if image not in image_ids:
            findings.add("unknown image", object_name(entry, index), index)
        elif category not in category_ids:
            record = f"{object_name(entry, index)}, category {entry['category_id']!r}"
            findings.add("unknown category", record, index)
        elif category_ids[category] is not None:
            new = {"image_id": image_ids[image], "category_id": category_ids[category]}
            if any(type(entry[k]) is not int for k in new):
                findings.add("ids of another type", object_name(entry, index))
            same = all(type(entry[k]) is int and entry[k] == v for k, v in new.items())
            kept.append((index, entry if same else {**entry, **new}))
    return kept


def object_name(entry: Mapping[str, Any], index: int) -> str:
    """What messages call an object."""
    if "id" in entry:
        return f"annotation {entry['id']!r} of image {entry['image_id']!r}"
    return f"annotations[{index}] of image {entry['image_id']!r}"


def _check_objects(
    entries: list[tuple[int, dict[str, Any]]],
    sizes: Mapping[int, tuple[int, int]],
    masks: bool,
    findings: Findings,
) -> list[tuple[int, dict[str, Any]]]:
    kept = []
    for index, entry in entries:
        repaired, kinds = check_object(entry, *sizes[entry["image_id"]], masks)
        severities = {FAULTS[kind][0] for kind in kinds}
        for kind in kinds:
            findings.add(kind, object_name(entry, index), index)
        if repaired is not None:
            kept.append((index, repaired if severities - {"note"} else entry))
    return kept


def _check_box_form(
    entries: Entries, sizes: Mapping[int, tuple[int, int]], findings: Findings
) -> None:
    """Find out whether the boxes of a file are corners (x1, y1, x2, y2) and not (x, y, w, h)."""
    usable = [
        entry
        for entry in entries
        if isinstance(entry.get("bbox"), list)
        and len(entry["bbox"]) == 4
        and all(map(is_finite, entry["bbox"]))
    ]
    if len(usable) < 3:
        return
    boxes = np.array([entry["bbox"] for entry in usable], np.float64)
    limits = np.array([sizes[entry["image_id"]] for entry in usable], np.float64)
    over = (boxes[:, :2] + boxes[:, 2:] > limits + 1).any(1)
    corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all(1)
    if corners.mean() >= CORNERS and over.mean() >= BEYOND:
        findings.add("boxes of corners", object_name(usable[0], 0))


def _check_crowds(entries: Entries, findings: Findings) -> None:
    if not entries:
        findings.add(NO_OBJECTS)
    elif all(entry["iscrowd"] for entry in entries):
        findings.add("only crowds")


def _check_annotation_ids(entries: Entries, findings: Findings) -> Entries:
    ids = [entry.get("id") for entry in entries]
    sound = [each for each in ids if type(each) is int and each > 0]
    once = sum(count == 1 for count in Counter(sound).values())
    if once == len(ids):
        return entries
    findings.add("annotation ids", f"{len(ids) - once} of {len(ids)}")
    return [{**entry, "id": index} for index, entry in enumerate(entries, start=1)]
