"""One pass over a COCO annotation file: what is wrong in it, and the file as it should be. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from posixpath import normpath
from typing import Any

import numpy as np

from mmconvnext.data.findings import FAULTS, Findings
from mmconvnext.data.names import key_of, name_list, nearest_name
from mmconvnext.data.objects import check_object, is_box
from mmconvnext.data.pictures import Picture, Size, check_pictures

REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
# Shares of boxes that are corners (x1, y1, x2, y2) within the picture, and that reach beyond it as
# (x, y, width, height), from which on a file is taken to have corners.
CORNERS, BEYOND = 0.95, 0.25
MOST_DETECTIONS = 100  # in a picture, that COCO's AP counts

Entries = list[dict[str, Any]]
Ids = dict[str | None, int | None]  # the new ids by what :func:`key_of` makes of the old ones
Reader = Callable[[list[str]], Mapping[str, Picture]]  # of pictures by ``file_name``


def check_annotations(
    content: Any,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    read: Reader | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[dict[str, Any], Findings]:
    """Check the content of a COCO annotation file and repair what can be repaired.

    In what it returns, label ``i`` of MMDetection, which numbers the categories in the order of the
    file, is ``labels[i]``; ids are whole numbers, used once; every object has what training and
    evaluation ask for. Where nothing has to be changed, it is the given content itself.

    Args:
        content: what the file has, not changed.
        classes: of the config's ``metainfo``; None for those of the file.
        masks: whether objects need masks.
        read: gives the pictures of names; None to leave them.
        labels: all classes of the detector in its order, where ``classes`` are some of them.
    """
    findings = Findings(classes=tuple(classes or ()))
    if fault := structure_fault(content):
        findings.add("not COCO", text=fault)
        return content, findings
    entries = content["annotations"]
    findings.images, findings.objects = len(content["images"]), len(entries)
    images, image_ids = _check_images(content["images"], read, findings)
    categories, category_ids = _check_categories(content, classes, labels, findings)
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    if not findings.of("error"):
        _check_box_form(entries, {key: sizes[new] for key, new in image_ids.items()}, findings)
    if findings.of("error"):
        return content, findings
    kept = []
    for index, entry in enumerate(entries):
        image, category = key_of(entry["image_id"]), key_of(entry["category_id"])
        given, repaired, kinds, more = entry, None, [], ""
        if image not in image_ids:
            kinds = ["unknown image"]
        elif category not in category_ids:
            kinds, more = ["unknown category"], f", category {entry['category_id']!r}"
        elif category_ids[category] is not None:
            new = {"image_id": image_ids[image], "category_id": category_ids[category]}
            given = _with(entry, new)
            repaired, kinds = check_object(given, *sizes[new["image_id"]], masks)
            if any(type(entry[key]) is not int for key in new):
                kinds.insert(0, "ids of another type")
        severities = {FAULTS[kind][0] for kind in kinds}
        findings.repaired += "repair" in severities
        for kind in kinds:
            findings.add(kind, f"{_object_name(entry, index)}{more}")
        if repaired is not None:
            kept.append(repaired if severities - {"note"} else given)
    kept = _check_kept(kept, findings)
    if not findings.of("repair", "fill") and len(kept) == findings.objects:
        return content, findings
    changed = {"images": images, "annotations": kept, "categories": categories}
    return {**content, **changed}, findings


def structure_fault(content: Any) -> str:
    """Why the content of a JSON file is not COCO's, or nothing."""
    if not isinstance(content, dict):
        names = ", ".join(REQUIRED_KEYS)
        return f"it has a {type(content).__name__}, not an object with {names}"
    for name, keys in REQUIRED_KEYS.items():
        entries = content.get(name)
        if not isinstance(entries, list):
            found = ", ".join(map(str, list(content)[:8])) or "nothing"
            return f"it has no list {name!r} (found: {found})"
        for index, entry in enumerate(entries):
            missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if missing:
                return f"{name}[{index}] has no {missing[0]!r}"
    return ""


def _with(entry: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with these values; the entry itself where it has them, of the same types."""
    same = all(type(entry.get(k)) is type(v) and entry[k] == v for k, v in changes.items())
    return entry if same else {**entry, **changes}


def _check_images(entries: Entries, read: Reader | None, findings: Findings) -> tuple[Entries, Ids]:
    """The images with sizes and with numbers as ids, and the new ids by the old ones."""
    ids: dict[str | None, str] = {}
    names: dict[str | None, str] = {}
    given, found = {}, []
    for index, entry in enumerate(entries):
        record = f"images[{index}] with id {entry['id']!r}, {entry['file_name']!r}"
        key, name = key_of(entry["id"]), _check_file_name(entry["file_name"], record, findings)
        if key is None:
            findings.add("image id", record)
        file = name and normpath(name)
        for kind, value, known in (("one image id", key, ids), ("one file name", file, names)):
            if value is not None and value in known:
                findings.add(kind, f"{known[value]} and {record}")
            known[value] = record
        if name is not None:
            given[name] = (_whole(entry.get("width")), _whole(entry.get("height")))
            found.append((entry, name, record))
    pictures = read(list(given)) if read else {}
    findings.turn, actual = check_pictures(pictures, given, findings)
    images = []
    for entry, name, record in found:
        size = said = given[name]
        if None in said and name in actual:
            findings.add("no image size", record)
            size = actual[name]
        elif None in said:
            wrong = f"{entry.get('width')!r} x {entry.get('height')!r}"
            findings.add("image size", f"{record}: {wrong}")
            size = (1, 1)  # whatever, as the file is refused
        elif type(entry["width"]) is not int or type(entry["height"]) is not int:
            findings.add("image sizes of another type", record)
        if None not in said and actual.get(name, said) != said:
            swapped = said == actual[name][::-1]
            kind = "width and height swapped" if swapped else "another size than the picture's"
            sizes = "{}x{}, the picture has {}x{}".format(*said, *actual[name])
            findings.add(kind, f"{record}: {sizes}")
        changed = dict(zip(("file_name", "width", "height"), (name, *size), strict=True))
        images.append(_with(entry, changed))
    if all(type(image["id"]) is int for image in images):
        return images, {key_of(image["id"]): image["id"] for image in images}
    findings.add("image ids")
    images = [{**image, "id": index} for index, image in enumerate(images, start=1)]
    return images, {key_of(each[0]["id"]): index for index, each in enumerate(found, start=1)}


def _check_file_name(name: Any, record: str, findings: Findings) -> str | None:
    """A picture's path below the data set's folder, with slashes; None where it is none."""
    if not isinstance(name, str) or not name.strip():
        findings.add("file name", record)
        return None
    if "://" in name:
        findings.add("URL as file name", record)
        return None
    path = name.replace("\\", "/")
    if path != name:
        findings.add("backslashes in file names", record)
    if path.startswith("/") or re.match(r"[A-Za-z]:/", path) or ".." in path.split("/"):
        findings.add("file name outside", record)
        return None
    return path


def _whole(value: Any) -> int | None:
    """A number of pixels, also as text or with a fraction of zero; None for what is none."""
    text = key_of(value) or ""
    return int(text) or None if text.isdecimal() and len(text) < 16 else None


def _check_categories(
    content: Mapping[str, Any],
    classes: Sequence[str] | None,
    labels: Sequence[str] | None,
    findings: Findings,
) -> tuple[Entries, Ids]:
    """The categories in the order of the labels, and the new ids by the old ones.

    None stands for a category that is no class: its objects are left out.
    """
    entries = content["categories"]
    by_id: dict[str, str] = {}
    by_name: dict[str, dict[str, Any]] = {}
    sound = True
    for entry in entries:
        key, name = key_of(entry["id"]), entry["name"]
        if key is None or not isinstance(name, str) or not name.strip():
            findings.add("category", f"id {entry['id']!r}, name {name!r}")
            sound = False
            continue
        if key in by_id:
            findings.add("one category id", f"{key}: {by_id[key]!r} and {name!r}")
        if name in by_name:
            findings.add("one category name", f"{name!r}: {by_name[name]['id']} and {key}")
        sound = sound and key not in by_id and name not in by_name
        by_id[key], by_name[name] = name, entry
    names = [entry["name"] for entry in entries]
    classes = tuple(names if classes is None else classes)
    findings.classes = labels = tuple(classes if labels is None else labels)
    if not sound:
        return entries, {}
    counts = Counter(key_of(a["category_id"]) for a in content["annotations"])
    _check_class_names(classes, {name: counts[key] for key, name in by_id.items()}, findings)
    in_order = [name for name in names if name in classes] == [*labels]
    if in_order and all(type(entry["id"]) is int for entry in entries):
        return entries, {key_of(entry["id"]): entry["id"] for entry in entries}
    findings.add("order of categories")
    new = [{**by_name.get(c, {}), "id": i, "name": c} for i, c in enumerate(labels, start=1)]
    ids = {entry["name"]: entry["id"] for entry in new if entry["name"] in classes}
    return new, {key: ids.get(name) for key, name in by_id.items()}


def _check_class_names(
    classes: Sequence[str], objects: Mapping[str, int], findings: Findings
) -> None:
    """Compare the config's classes with the categories of the file and their counts of objects."""
    for name, count in Counter(classes).items():
        if count > 1:
            findings.add("class twice", repr(name))
    missing = [name for name in classes if name not in objects]
    extra = [name for name in objects if name not in classes]
    if missing and len(missing) == len(classes):
        found = name_list([*objects]) or "none"
        findings.add("other classes", f"{name_list(classes)}, in the file {found}")
        return
    for name in missing:
        if near := nearest_name(name, extra):
            findings.add("misspelt class", f"{name!r}, in the file {near!r}")
        else:
            findings.add("class without category", repr(name))
    for name in extra:
        findings.add("category without class", f"{name!r} with {objects[name]} objects")


def _object_name(entry: Mapping[str, Any], index: int) -> str:
    own = f"annotation {entry['id']!r}" if "id" in entry else f"annotations[{index}]"
    return f"{own} of image {entry['image_id']!r}"


def _check_box_form(entries: Entries, sizes: Mapping[str | None, Size], findings: Findings) -> None:
    """Find out whether the boxes of a file are corners (x1, y1, x2, y2) and not (x, y, w, h)."""
    keys = (key_of(entry["image_id"]) for entry in entries)
    usable = [
        (entry, sizes[key])
        for entry, key in zip(entries, keys, strict=True)
        if key in sizes and is_box(entry.get("bbox"))
    ]
    if len(usable) < 3:
        return
    boxes = np.array([entry["bbox"] for entry, _ in usable], np.float64)
    limits = np.array([size for _, size in usable], np.float64)
    over = (boxes[:, :2] + boxes[:, 2:] > limits + 1).any(1)
    corners = ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)).all(1)
    if corners.mean() >= CORNERS and over.mean() >= BEYOND:
        findings.add("boxes of corners", _object_name(usable[0][0], 0))


def _check_kept(kept: Entries, findings: Findings) -> Entries:
    """The objects that are left, with ids of their own."""
    if not kept:
        findings.add("no objects")
    elif all(entry["iscrowd"] for entry in kept):
        findings.add("only crowds")
    unlike = findings.by_kind.get("mask unlike the box")
    if unlike and len(kept) > 2 and len(unlike.records) > len(kept) / 2:
        findings.add("boxes unlike the masks", f"{len(unlike.records)} of {len(kept)}")
    for image, count in Counter(each["image_id"] for each in kept if not each["iscrowd"]).items():
        if count > MOST_DETECTIONS:
            findings.add("more than 100 objects", f"image {image} has {count}")
    ids = [entry.get("id") for entry in kept]
    counts = Counter(each for each in ids if type(each) is int and each > 0)
    once = sum(count == 1 for count in counts.values())
    if once == len(ids):
        return kept
    findings.add("annotation ids", f"{len(ids) - once} of {len(ids)}")
    return [{**entry, "id": index} for index, entry in enumerate(kept, start=1)]
