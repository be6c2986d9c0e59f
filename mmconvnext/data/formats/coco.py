"""COCO's JSON files in the places where people and tools put them."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmconvnext.data.checks import REQUIRED_KEYS, structure_fault
from mmconvnext.data.formats.common import Split, bring_pictures, read_json, split_of
from mmconvnext.data.names import key_of
from mmconvnext.data.paths import write_whole
from mmconvnext.errors import DataError

OTHER_TASKS = ("captions", "person_keypoints", "image_info", "panoptic", "stuff")


def find(root: Path) -> list[Path]:
    """The COCO files of a folder, at most two folders deep."""
    paths = [p for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}.json")]
    return [path for path in sorted(paths) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    start = head.removeprefix(BOM_UTF8).lstrip()[:1]
    if re.search(rb'"shapes"\s*:', head) or start != b"{":
        return False
    there = [f'"{name}"'.encode() in head for name in REQUIRED_KEYS]
    # the lists of a large file are far apart
    return any(there) if path.stat().st_size > len(head) else all(there)


def read(root: Path, found: Iterable[Path]) -> dict[str, Split]:
    """The splits of a folder; which one a file is, its name or its folder's says."""
    chosen: dict[str, Path] = {}
    for path in (p for p in found if not p.stem.startswith(OTHER_TASKS)):
        split = split_of(path.stem) or split_of(path.parent.name) or "train"
        if split in chosen:
            raise DataError(
                f"{chosen[split]} and {path} are both taken for {split}: call them train.json and "
                "val.json, or remove one"
            )
        chosen[split] = path
    return {split: _read(root, path, split) for split, path in chosen.items()}


def _read(root: Path, path: Path, split: str) -> Split:
    content = read_json(path)
    if fault := structure_fault(content):
        raise DataError(f"{path}: not COCO: {fault}")
    cleaned, notes = without_dummies(content)
    names = [_name(image) for image in content["images"][:50]]
    folder = _pictures(root, path, split, names)
    if folder is None:  # an export has the paths of another machine
        folder = _pictures(root, path, split, [name.rpartition("/")[2] for name in names])
        alone = [{**i, "file_name": _name(i).rpartition("/")[2]} for i in cleaned["images"]]
        cleaned = {**cleaned, "images": alone}
        notes.append(f"{path}: no picture is at {', '.join(names[:1])}: looked for by name")
    if folder is None:
        raise DataError(
            f"the pictures of {path}, {', '.join(names[:1]) or 'none'} and others, are in no "
            f"folder of {root}: put them into {root / 'images'}"
        )
    return Split(folder, cleaned, path if cleaned is content else None, notes)


def _name(image: Mapping[str, Any]) -> str:
    return str(image["file_name"]).replace("\\", "/")


def _pictures(root: Path, path: Path, split: str, names: list[str]) -> Path | None:
    """The folder below which most of a file's pictures lie, or None where none is found."""
    stem = path.stem.removeprefix("instances_")
    bases = (path.parent, root, path.parent.parent)
    inner = ("", "images", stem, split, f"images/{stem}", f"images/{split}", f"{split}/images")
    others = ("data", "valid", "JPEGImages", f"{split}2017")
    places = dict.fromkeys(base / each for base in bases for each in (*inner, *others))
    counts = Counter({p: sum((p / name).is_file() for name in names) for p in places})
    folder, count = counts.most_common(1)[0]
    return folder if count else None


def without_dummies(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Drop Roboflow's categories that stand for the data set and have no objects.

    Such a category is the supercategory, or has the name, of another one.

    Returns:
        The content, the same object where nothing was dropped, and a line on what was.
    """
    categories = content["categories"]
    used = {key_of(entry["category_id"]) for entry in content["annotations"]}
    above = [category.get("supercategory") for category in categories]
    names = [category["name"] for category in categories]
    dummies = [
        category
        for category in categories
        if key_of(category["id"]) not in used
        and (category["name"] in above or names.count(category["name"]) > 1)
    ]
    if not dummies or len(dummies) == len(categories):
        return content, []
    dropped = ", ".join(repr(category["name"]) for category in dummies)
    kept = [category for category in categories if category not in dummies]
    return {**content, "categories": kept}, [f"left out: {dropped}, a category without objects"]


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write splits as ``annotations/instances_SPLIT.json`` and folders of pictures."""
    for split, each in splits.items():
        bring_pictures(each, root / split)
        write_whole(root / "annotations" / f"instances_{split}.json", json.dumps(each.content))
