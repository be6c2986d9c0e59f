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
from mmconvnext.data.objects import is_box, is_finite
from mmconvnext.data.paths import write_whole
from mmconvnext.errors import DataError
from mmconvnext.weights.download import sha256_of

SPLITS = ("train", "val", "test")
# COCO's upper limits of the area of small and medium objects, in pixels.
SMALL, MEDIUM = 32**2, 96**2
MAX_ROWS = 40  # of classes in the table
MAX_NAMES = 5  # of classes in a line
VAL_SHARE = 0.15
NO_OBJECT: Hashable = None  # the class of images without objects

Entries = Sequence[Mapping[str, Any]]


@dataclass
class OwnData:
    """A data set that a config can be pointed at."""

    files: dict[str, Path]  # annotation file of each split; ``val`` and ``test`` are there always
    folders: dict[str, Path]  # of the pictures of each split
    classes: tuple[str, ...]  # names of the labels, one order for all splits
    masks: bool  # whether objects have masks, or boxes alone
    notes: list[str]  # what was chosen, in lines
    rows: list[list[str]]  # a table of what is in it, a column for each split


def make_own(splits: Mapping[str, Split], folder: Path) -> OwnData:
    """Make COCO files of splits, as the readers give them, with a validation part.

    What has to be written goes to a folder in ``folder`` that is named by the content; the same
    splits give the same files. What is wrong with single objects is left to the checks.
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

    The second value is a line on classes that the first split lacks, if any.
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
        area, box = entry.get("area"), entry.get("bbox")
        if not is_finite(area) or area <= 0:
            area = box[2] * box[3] if is_box(box) else 0
        facts["small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1
        objects[names.get(category, "")] += 1
    return facts, objects


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


def choose_validation(labels: Sequence[set[Hashable]], sizes: Sequence[int]) -> set[int]:
    """Choose groups of images for validation so that each class has its share there.

    Iterative stratification (Sechidis et al., 2011): from the rarest class on, each group goes to
    the side that lacks more of the class. A class of few groups is trained on; where that leaves no
    group with objects for validation, one is taken.

    Args:
        labels: classes of each group.
        sizes: images in each group.

    Returns:
        Indices: at least one, and not all; none for less than two groups.
    """
    if len(labels) < 2:
        return set()
    labels = [found or {NO_OBJECT} for found in labels]
    counts = Counter(chain.from_iterable(labels))
    lacks_val = {name: VAL_SHARE * count for name, count in counts.items()}
    lacks_train = {name: (1 - VAL_SHARE) * count for name, count in counts.items()}
    left = VAL_SHARE * sum(sizes)
    # in an order that has nothing to do with that of the file
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    chosen: dict[int, bool] = {}
    for name in sorted(counts, key=lambda name: (counts[name], str(name))):
        for index in (i for i in order if i not in chosen and name in labels[i]):
            chosen[index] = lacks_val[name] > lacks_train[name] and left > 0
            left -= sizes[index] * chosen[index]
            for each in labels[index]:
                (lacks_val if chosen[index] else lacks_train)[each] -= 1
    # more where many rare classes left too few, but none that a class needs
    trained = Counter(name for index in order if not chosen[index] for name in labels[index])
    for index in order:
        if not chosen[index] and sizes[index] <= left and min(map(trained.get, labels[index])) > 1:
            chosen[index] = True
            left -= sizes[index]
            trained.subtract(labels[index])
    indices = {index for index in order if chosen[index]}
    if any(labels[index] != {NO_OBJECT} for index in indices):
        return indices
    # few images: that with objects whose rarest class is the most frequent elsewhere
    counts[NO_OBJECT] = 0
    return {max(order, key=lambda i: min(counts[name] for name in labels[i]))}


def same_pictures(paths: Sequence[Path]) -> list[list[int]]:
    """The indices of files in groups that are equal, byte by byte; an absent one is alone."""
    there = [index for index, path in enumerate(paths) if path.is_file()]
    groups = [[index] for index in set(range(len(paths))).difference(there)] + [there] * bool(there)
    for key in (lambda path: path.stat().st_size, _head, sha256_of):  # few are read as a whole
        finer = []
        for group in groups:
            by_key: dict[Any, list[int]] = defaultdict(list)
            for index in group:
                by_key[key(paths[index]) if len(group) > 1 else None].append(index)
            finer += by_key.values()
        groups = finer
    return sorted(groups)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 14)
