"""From the splits of somebody's folder to COCO files to train on: classes, ids, a validation part.

Files that are COCO already are used as they are; others, and parts of them, are written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmconvnext.data.categories import key_of, plain_name
from mmconvnext.data.formats.common import Split
from mmconvnext.data.objects import is_finite
from mmconvnext.data.paths import write_whole
from mmconvnext.data.validation import choose_validation, same_pictures
from mmconvnext.errors import DataError

SPLITS = ("train", "val", "test")
# COCO's upper limits of the area of small and medium objects, in pixels.
SMALL, MEDIUM = 32**2, 96**2
MAX_ROWS = 40  # of classes in the table
MAX_NAMES = 5  # of classes in a line


@dataclass
class OwnData:
    """A data set that a config can be pointed at.

    Attributes:
        files: annotation file of each split; ``val`` and ``test`` are there always.
        folders: of the pictures of each split.
        classes: names of the labels, one order for all splits.
        masks: whether objects have masks, or boxes alone.
        notes: what was chosen, in lines.
        rows: a table of what is in it, a column for each split.
    """

    files: dict[str, Path]
    folders: dict[str, Path]
    classes: tuple[str, ...]
    masks: bool
    notes: list[str]
    rows: list[list[str]]


def make_own(splits: Mapping[str, Split], folder: Path) -> OwnData:
    """Make COCO files of splits, with a validation part; what has to be written goes to a folder.

    The same splits give the same files. What is wrong with single objects is left to the checks.

    Args:
        splits: by name, out of ``train``, ``val`` and ``test``, as the readers give them.
        folder: for new files, which lie in a folder of it that is named by their content.

    Raises:
        DataError: there are no objects, no second picture, or two spellings of one class.
    """
    splits = {name: splits[name] for name in SPLITS if name in splits}
    for name, split in splits.items():
        if not isinstance(split.content, dict) or not _entries(split, "images"):
            raise DataError(f"{split.path or split.folder}: the {name} split has no images")
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.notes))
    if not any(_entries(split, "annotations") for split in splits.values()):
        raise DataError(f"{_places(splits)}: there are no objects, nothing to train on")
    if "test" in splits and len(splits) > 1 and not _entries(splits["test"], "annotations"):
        notes.append("the test split has no objects and is left out")
        del splits["test"]
    classes, more = common_classes(splits)
    notes += more
    if "val" not in splits and "train" in splits:
        splits, note = _with_validation(splits)
        notes.append(note)
    else:
        notes += _note_on_copies(splits)
    for name, other in (("val", "test"), ("test", "val")):
        if name not in splits:
            splits[name] = splits[other]
            notes.append(f"there is no {name} split: {name} is {other}")
    notes += _note_on_classes(splits, classes)
    files = _write(splits, folder)
    notes += _note_on_ids(splits, files)
    folders = {name: split.folder.absolute() for name, split in splits.items()}
    entries = chain.from_iterable(_entries(split, "annotations") for split in splits.values())
    masks = any(entry.get("segmentation") for entry in entries)
    return OwnData(files, folders, classes, masks, notes, _table(splits, classes))


def _entries(split: Split, key: str) -> list[dict[str, Any]]:
    """A list of a file without what is no entry, which the checks refuse."""
    entries = split.content.get(key)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _places(splits: Mapping[str, Split]) -> str:
    return ", ".join(str(split.path or split.folder) for split in splits.values())


def common_classes(splits: Mapping[str, Split]) -> tuple[tuple[str, ...], list[str]]:
    """One order of classes for all splits: that of the first split's ids, then what others add.

    Returns:
        The names, and a line on classes that the first split lacks.

    Raises:
        DataError: there is none, or two differ in case, blanks and hyphens alone.
    """
    of_splits: dict[str, list[str]] = {}
    for split, each in splits.items():
        entries = [e for e in _entries(each, "categories") if isinstance(e.get("name"), str)]
        if all(type(entry.get("id")) is int for entry in entries):
            entries = sorted(entries, key=lambda entry: entry["id"])
        of_splits[split] = [entry["name"] for entry in entries]
    names = dict.fromkeys(chain.from_iterable(of_splits.values()))
    if not names:
        raise DataError(f"{_places(splits)}: there are no classes")
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(plain_name(name), name)
        if other != name:
            raise DataError(
                f"{_places(splits)}: {other!r} and {name!r} are two classes that differ only in "
                "case, blanks or hyphens; write both alike"
            )
    first = next(iter(splits))
    extra = ", ".join(repr(name) for name in names if name not in of_splits[first])
    return tuple(names), [f"{first} has no class {extra}, which others have"] * bool(extra)


def _with_validation(splits: Mapping[str, Split]) -> tuple[dict[str, Split], str]:
    train = splits["train"]
    images = _entries(train, "images")
    labels: dict[Hashable, set[Hashable]] = defaultdict(set)
    for entry in _entries(train, "annotations"):
        labels[key_of(entry.get("image_id"))].add(key_of(entry.get("category_id")))
    groups = [
        [images[index] for index in group]
        for group in same_pictures([_picture(train, image) for image in images])
    ]
    of_groups = [set().union(*(labels[key_of(i.get("id"))] for i in group)) for group in groups]
    chosen = choose_validation(of_groups, [len(group) for group in groups])
    if not chosen:
        raise DataError(
            f"{_places({'train': train})}: one picture (copies count once) cannot be split into "
            "training and validation; add pictures, or a folder val"
        )
    held = {id(image) for index in chosen for image in groups[index]}
    parts = {
        "train": _part(train, [image for image in images if id(image) not in held]),
        "val": _part(train, [image for image in images if id(image) in held]),
    }
    note = (
        f"there is no val split: {len(held)} of the {len(images)} training images were taken for "
        "it, the same in every run, by class, copies of a picture together"
    )
    return {**parts, **{k: v for k, v in splits.items() if k != "train"}}, note


def _part(split: Split, images: list[dict[str, Any]]) -> Split:
    """A split with some of its images; objects of no image at all stay, for the checks to find."""
    others = {key_of(image.get("id")) for image in _entries(split, "images")}
    others -= {key_of(image.get("id")) for image in images}
    entries = [e for e in _entries(split, "annotations") if key_of(e.get("image_id")) not in others]
    return Split(split.folder, {**split.content, "images": images, "annotations": entries})


def _picture(split: Split, image: Mapping[str, Any]) -> Path:
    return split.folder / str(image.get("file_name")).replace("\\", "/").replace("\0", "")


def _note_on_copies(splits: Mapping[str, Split]) -> list[str]:
    """A line for pictures of the training that are in the validation or the test, too."""
    used = [
        (n == "train", _picture(s, i)) for n, s in splits.items() for i in _entries(s, "images")
    ]
    groups = same_pictures([path for _, path in used])
    both = [group for group in groups if len({used[index][0] for index in group}) > 1]
    if not both:
        return []
    example = " and ".join(str(used[index][1]) for index in both[0][:2])
    return [f"{len(both)} pictures are in the training and in val or test, too: {example}"]


def _note_on_classes(splits: Mapping[str, Split], classes: Sequence[str]) -> list[str]:
    """A line for classes that a split has no object of: not learned, or not in the mean AP."""
    labels = {name: index for index, name in enumerate(classes)}
    notes = []
    for name, means in (("train", "cannot be learned"), ("val", "the mean AP leaves out")):
        if name not in splits:
            continue
        count = _count(splits[name], labels)
        absent = [repr(label) for label, index in labels.items() if not count[index]]
        if absent:
            more = f" and {len(absent) - MAX_NAMES} others" * (len(absent) > MAX_NAMES)
            notes.append(
                f"{name} has no object of {', '.join(absent[:MAX_NAMES])}{more}, which {means}"
            )
    return notes


def _write(splits: Mapping[str, Split], folder: Path) -> dict[str, Path]:
    """The annotation file of each split: the one that it is read from, or a new one."""
    texts = {n: json.dumps(with_ids_from_one(s.content)) for n, s in splits.items() if not s.path}
    digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()[:8]
    written: dict[str, Path] = {}
    for name, text in texts.items():
        path = folder.absolute() / digest / f"{name}.json"
        # one file for splits that are the same: their metric and data set have to have one
        if written.setdefault(text, path) == path and not path.is_file():
            write_whole(path, text)
    return {n: s.path.absolute() if s.path else written[texts[n]] for n, s in splits.items()}


def _note_on_ids(splits: Mapping[str, Split], files: Mapping[str, Path]) -> list[str]:
    """A line for each new file whose ids are not those of the file that it was made from."""
    return list(
        dict.fromkeys(
            f"ids that started at 0 are one higher in {files[name]}, whose ids findings name"
            for name, split in splits.items()
            if not split.path
            for key in ("images", "annotations")
            if min((e["id"] for e in _entries(split, key) if type(e.get("id")) is int), default=1)
            == 0
        )
    )


def with_ids_from_one(content: Mapping[str, Any]) -> dict[str, Any]:
    """A COCO file whose ids start at 1 where they started below, all moved by the same number."""
    moved = dict(content)
    for key, reference in (("images", "image_id"), ("categories", "category_id")):
        _move(moved, key, {key: "id", "annotations": reference})
    _move(moved, "annotations", {"annotations": "id"})
    return moved


def _move(content: dict[str, Any], key: str, ids: Mapping[str, str]) -> None:
    """Move the ids of a list, and what refers to them."""
    found = [e.get("id") for e in content.get(key) or () if isinstance(e, dict)]
    if not found or any(type(each) is not int for each in found) or min(found) >= 1:
        return
    step = 1 - min(found)
    for name, field in ids.items():
        content[name] = [
            {**e, field: e[field] + step}
            if isinstance(e, dict) and type(e.get(field)) is int
            else e
            for e in content[name]
        ]


def _table(splits: Mapping[str, Split], classes: Sequence[str]) -> list[list[str]]:
    """Images, objects of each class and their sizes, a column for each split."""
    labels = {name: min(index, MAX_ROWS) for index, name in enumerate(classes)}
    counts = {name: _count(split, labels) for name, split in splits.items()}
    rows = [(key, key) for key in ("images", "images without objects", "picture sizes")]
    rows += [(name, label) for name, label in labels.items() if label < MAX_ROWS]
    if len(classes) > MAX_ROWS:
        rows.append((f"{len(classes) - MAX_ROWS} other classes", MAX_ROWS))
    rows += [(key, key) for key in ("small", "medium", "large", "crowds")]
    return [["", *counts], *([n, *(str(c[key]) for c in counts.values())] for n, key in rows)]


def _count(split: Split, labels: Mapping[str, int]) -> Counter[Any]:
    """What is in a split, and the objects of each label; crowds are counted apart."""
    images, entries = _entries(split, "images"), _entries(split, "annotations")
    names = {key_of(c.get("id")): str(c.get("name")) for c in _entries(split, "categories")}
    used = {key_of(entry.get("image_id")) for entry in entries}
    sizes = [(i.get("width"), i.get("height")) for i in images]
    sizes = [size for size in sizes if all(type(value) is int for value in size)]
    ends = dict.fromkeys(f"{w}x{h}" for w, h in (min(sizes), max(sizes))) if sizes else ["unknown"]
    found: Counter[Any] = Counter({"images": len(images)})
    found["images without objects"] = sum(key_of(i.get("id")) not in used for i in images)
    found["picture sizes"] = " to ".join(ends)
    for entry in entries:
        if entry.get("iscrowd") == 1:
            found["crowds"] += 1
            continue
        area = _area(entry)
        found["small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1
        found[labels.get(names.get(key_of(entry.get("category_id"))))] += 1
    return found


def _area(entry: Mapping[str, Any]) -> float:
    """In pixels; of the box where the file does not say, 0 where that is none."""
    area, box = entry.get("area"), entry.get("bbox")
    if is_finite(area) and area > 0:
        return area
    sound = isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))
    return float(box[2] * box[3]) if sound else 0.0
