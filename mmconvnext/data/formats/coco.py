"""COCO's JSON files in the places where people and tools put them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmconvnext.data.formats.common import Split, bring_pictures, read_json, split_of
from mmconvnext.data.paths import write_whole
from mmconvnext.errors import DataError

LISTS = ("images", "annotations", "categories")
OTHER_TASKS = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")


def find(root: Path) -> list[Path]:
    """The COCO files of a folder, at most two folders deep."""
    paths = [p for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}.json")]
    return [path for path in sorted(paths) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if re.search(rb'"shapes"\s*:', head) or not head.lstrip().startswith(b"{"):
        return False
    there = [f'"{name}"'.encode() in head for name in LISTS]
    # the lists of a large file are far apart
    return any(there) if path.stat().st_size > len(head) else all(there)


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder; which one a file is, its name or its folder's says.

    Raises:
        DataError: two files are one split, or no folder has a file's pictures.
    """
    chosen: dict[str, Path] = {}
    for path in find(root):
        if path.stem.startswith(OTHER_TASKS):
            continue
        split = split_of(path.stem) or split_of(path.parent.name) or "train"
        if split in chosen:
            raise DataError(
                f"{chosen[split]} and {path} are both taken for {split}: call them train.json and "
                "val.json, or remove one"
            )
        chosen[split] = path
    splits = {}
    for split, path in chosen.items():
        content = read_json(path)
        cleaned, notes = without_dummies(content)
        folder = _pictures(root, path, split, cleaned)
        if folder is None:
            cleaned, more = _without_folders(path, cleaned)
            notes, folder = notes + more, _pictures(root, path, split, cleaned)
        if folder is None:
            first = next(iter(_names(content)), "none")
            raise DataError(
                f"the pictures of {path}, {first} and others, are in no folder of {root}: put them "
                f"into {root / 'images'}"
            )
        splits[split] = Split(folder, cleaned, path if cleaned is content else None, notes)
    return splits


def _names(content: Mapping[str, Any]) -> list[str]:
    """What the first images are called."""
    return [str(i.get("file_name")).replace("\\", "/") for i in content["images"] if i][:50]


def _without_folders(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Images by their names alone, where an export has the paths of another machine."""
    names = _names(content)
    images = [
        {**image, "file_name": str(image["file_name"]).replace("\\", "/").rpartition("/")[2]}
        if isinstance(image, dict) and "file_name" in image
        else image
        for image in content["images"]
    ]
    note = f"{path}: no picture is at {names[0] if names else 'its place'}: looked for by name"
    return {**content, "images": images}, [note]


def _pictures(root: Path, path: Path, split: str, content: Mapping[str, Any]) -> Path | None:
    """The folder below which most of a file's pictures lie, or None where none is found."""
    names = _names(content)
    stem = path.stem.removeprefix("instances_")
    bases = (path.parent, root, path.parent.parent)
    inner = ("", "images", stem, split, f"images/{stem}", f"images/{split}", f"{split}/images")
    others = ("data", "valid", "JPEGImages", f"{split}2017")
    places = [base / each for base in bases for each in (*inner, *others)]
    counts = Counter({p: sum((p / n).is_file() for n in names) for p in dict.fromkeys(places)})
    folder, count = counts.most_common(1)[0]
    return folder if count else None


def without_dummies(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Drop Roboflow's categories that stand for the data set and have no objects.

    Such a category is the supercategory, or has the name, of another one.

    Returns:
        The content, the same object where nothing was dropped, and a line on what was.
    """
    categories = [c for c in content["categories"] if isinstance(c, dict)]
    used = {a.get("category_id") for a in content["annotations"] if isinstance(a, dict)}
    above = {c.get("supercategory") for c in categories}
    names = Counter(c.get("name") for c in categories)
    dummies = [
        category
        for category in categories
        if category.get("id") not in used
        and (category.get("name") in above or names[category.get("name")] > 1)
    ]
    if not dummies or len(dummies) == len(categories):
        return content, []
    names = ", ".join(repr(category["name"]) for category in dummies)
    kept = [c for c in content["categories"] if c not in dummies]
    return {**content, "categories": kept}, [f"left out: {names}, a category without objects"]


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write splits as ``annotations/instances_SPLIT.json`` and folders of pictures."""
    for split, each in splits.items():
        bring_pictures(each, root / split)
        write_whole(root / "annotations" / f"instances_{split}.json", json.dumps(each.content))
