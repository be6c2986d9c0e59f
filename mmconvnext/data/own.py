"""From the splits of somebody's folder to COCO files to train on: classes, ids, a validation part.

Files that are COCO already are used as they are; others, and parts of them, are written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmconvnext.data.formats.common import Split
from mmconvnext.data.names import key_of, plain_name
from mmconvnext.data.objects import is_finite
from mmconvnext.data.paths import write_whole
from mmconvnext.data.validation import choose_validation, same_pictures
from mmconvnext.errors import DataError

SPLITS = ("train", "val", "test")
# COCO's upper limits of the area of small and medium objects, in pixels.
SMALL, MEDIUM = 32**2, 96**2
MAX_ROWS = 40  # of classes in the table
MAX_NAMES = 5  # of classes in a line

Entries = Sequence[Mapping[str, Any]]


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
        if not split.content["images"]:
            raise DataError(f"{split.place}: the {name} split has no images")
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.notes))
    if not any(split.content["annotations"] for split in splits.values()):
        raise DataError(f"{_places(splits)}: there are no objects, nothing to train on")
    if "test" in splits and len(splits) > 1 and not splits["test"].content["annotations"]:
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
    counts = {name: _count(split) for name, split in splits.items()}
    notes += _note_on_classes(counts, classes)
    files = _write(splits, folder, notes)
    folders = {name: split.folder.absolute() for name, split in splits.items()}
    entries = chain.from_iterable(split.content["annotations"] for split in splits.values())
    masks = any(entry.get("segmentation") for entry in entries)
    return OwnData(files, folders, classes, masks, notes, _table(counts, classes))


def _places(splits: Mapping[str, Split]) -> str:
    return ", ".join(str(split.place) for split in splits.values())


def common_classes(splits: Mapping[str, Split]) -> tuple[tuple[str, ...], list[str]]:
    """One order of classes for all splits: that of the first split's ids, then what others add.

    Returns:
        The names, and a line on classes that the first split lacks.

    Raises:
        DataError: there is none, or two differ in case, blanks and hyphens alone.
    """
    of_splits: list[list[str]] = []
    for split in splits.values():
        entries = [e for e in split.content["categories"] if isinstance(e["name"], str)]
        if all(type(entry["id"]) is int for entry in entries):
            entries = sorted(entries, key=lambda entry: entry["id"])
        of_splits.append([entry["name"] for entry in entries])
    names = dict.fromkeys(chain.from_iterable(of_splits))
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
    extra = ", ".join(repr(name) for name in names if name not in of_splits[0])
    first = next(iter(splits))
    return tuple(names), [f"{first} has no class {extra}, which others have"] * bool(extra)


def _with_validation(splits: Mapping[str, Split]) -> tuple[dict[str, Split], str]:
    train = splits["train"]
    images = train.content["images"]
    labels: dict[Hashable, set[Hashable]] = defaultdict(set)
    for image, category, _ in _objects(train):
        labels[image].add(category)
    groups = same_pictures([_picture(train, image) for image in images])
    of_groups = [set().union(*(labels[key_of(images[i]["id"])] for i in group)) for group in groups]
    chosen = choose_validation(of_groups, list(map(len, groups)))
    if not chosen:
        raise DataError(
            f"{train.place}: one picture (copies count once) cannot be split into "
            "training and validation; add pictures, or a folder val"
        )
    indices = {index for group in chosen for index in groups[group]}
    held = [image for index, image in enumerate(images) if index in indices]
    kept = [image for index, image in enumerate(images) if index not in indices]
    note = (
        f"there is no val split: {len(held)} of the {len(images)} training images were taken for "
        "it, the same in every run, by class, copies of a picture together"
    )
    parts = {"train": _part(train, kept, held), "val": _part(train, held, kept)}
    return parts | {name: split for name, split in splits.items() if name not in parts}, note


def _objects(split: Split) -> Iterator[tuple[str | None, str | None, dict[str, Any]]]:
    """The objects of a split, with the ids of image and category as text."""
    for entry in split.content["annotations"]:
        yield key_of(entry["image_id"]), key_of(entry["category_id"]), entry


def _part(split: Split, images: Entries, others: Entries) -> Split:
    """A split with some of its images; objects of no image at all stay, for the checks to find."""
    ids = {key_of(image["id"]) for image in others}
    entries = [entry for image, _, entry in _objects(split) if image not in ids]
    return Split(split.folder, {**split.content, "images": images, "annotations": entries})


def _picture(split: Split, image: Mapping[str, Any]) -> Path:
    return split.folder / str(image["file_name"]).replace("\\", "/").replace("\0", "")


def _note_on_copies(splits: Mapping[str, Split]) -> list[str]:
    """A line for pictures of the training that are in the validation or the test, too."""
    used = [(n == "train", _picture(s, i)) for n, s in splits.items() for i in s.content["images"]]
    groups = same_pictures([path for _, path in used])
    both = [group for group in groups if len({used[index][0] for index in group}) > 1]
    if not both:
        return []
    example = " and ".join(str(used[index][1]) for index in both[0][:2])
    return [f"{len(both)} pictures are in the training and in val or test, too: {example}"]


def _write(splits: Mapping[str, Split], folder: Path, notes: list[str]) -> dict[str, Path]:
    """The annotation file of each split: the one that it is read from, or a new one."""
    new = {n: with_ids_from_one(s.content) for n, s in splits.items() if not s.path}
    texts = {name: json.dumps(content) for name, content in new.items()}
    digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()[:8]
    written: dict[str, Path] = {}
    for name, text in texts.items():
        # one file for splits that are the same: their metric and data set have to have one
        if text in written:
            continue
        written[text] = path = folder.absolute() / digest / f"{name}.json"
        if not path.is_file():
            write_whole(path, text)
        if new[name] is not splits[name].content:
            notes.append(f"ids that started at 0 are one higher in {path}, whose ids findings name")
    return {n: s.path.absolute() if s.path else written[texts[n]] for n, s in splits.items()}


def with_ids_from_one(content: dict[str, Any]) -> dict[str, Any]:
    """A COCO file whose ids start at 1 where they started at 0; the same object where none did."""
    moved = dict(content)
    keys = {"images": "image_id", "categories": "category_id", "annotations": "id"}
    for key, reference in keys.items():
        ids = [entry.get("id") for entry in content[key]]
        if all(type(each) is int for each in ids) and min(ids, default=1) == 0:
            for name, field in {key: "id", "annotations": reference}.items():
                moved[name] = [
                    {**e, field: e[field] + 1} if type(e[field]) is int else e for e in moved[name]
                ]
    return content if moved == content else moved


def _count(split: Split) -> tuple[dict[str, Any], Counter[str]]:
    """What is in a split, and the objects of each class; crowds are counted apart."""
    content = split.content
    names = {key_of(category["id"]): str(category["name"]) for category in content["categories"]}
    used = {image for image, _, _ in _objects(split)}
    sizes = [(image.get("width"), image.get("height")) for image in content["images"]]
    sizes = [size for size in sizes if all(type(value) is int for value in size)]
    ends = [min(sizes), max(sizes)] if sizes else []
    facts = {
        "images": len(content["images"]),
        "images without objects": sum(key_of(i["id"]) not in used for i in content["images"]),
        "picture sizes": " to ".join(dict.fromkeys(f"{w}x{h}" for w, h in ends)) or "unknown",
        **dict.fromkeys(("small", "medium", "large", "crowds"), 0),
    }
    objects: Counter[str] = Counter()
    for _, category, entry in _objects(split):
        if entry.get("iscrowd") == 1:
            facts["crowds"] += 1
            continue
        area = _area(entry)
        facts["small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1
        objects[names.get(category, "")] += 1
    return facts, objects


def _area(entry: Mapping[str, Any]) -> float:
    """In pixels; of the box where the file does not say, 0 where that is none."""
    area, box = entry.get("area"), entry.get("bbox")
    if is_finite(area) and area > 0:
        return area
    sound = isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))
    return float(box[2] * box[3]) if sound else 0.0


def _table(counts: Mapping[str, tuple], classes: Sequence[str]) -> list[list[str]]:
    """Images, objects of each class and their sizes, a column for each split."""
    facts, objects = zip(*counts.values(), strict=True)
    of_facts = [[key, *(str(each[key]) for each in facts)] for key in facts[0]]
    of_classes = [[name, *(str(each[name]) for each in objects)] for name in classes[:MAX_ROWS]]
    if others := classes[MAX_ROWS:]:
        sums = (str(sum(each[name] for name in others)) for each in objects)
        of_classes.append([f"{len(others)} other classes", *sums])
    return [["", *counts], *of_facts[:3], *of_classes, *of_facts[3:]]


def _note_on_classes(counts: Mapping[str, tuple], classes: Sequence[str]) -> list[str]:
    """A line for classes that a split has no object of: not learned, or not in the mean AP."""
    notes = []
    for name, means in (("train", "cannot be learned"), ("val", "the mean AP leaves out")):
        absent = [repr(each) for each in classes if name in counts and not counts[name][1][each]]
        if absent:
            more = f" and {len(absent) - MAX_NAMES} others" * (len(absent) > MAX_NAMES)
            shown = ", ".join(absent[:MAX_NAMES])
            notes.append(f"{name} has no object of {shown}{more}, which {means}")
    return notes
