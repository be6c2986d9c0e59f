"""From one tool's annotation format to another's."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mmconvnext.data.formats import FORMATS, Split
from mmconvnext.errors import DataError

ONE_FILE_A_STEM = ("labelme", "voc", "yolo")  # a.jpg and a.png would share one file


def check_target(root: Path) -> None:
    """Check that a folder can be written: it is absent or empty, or DataError is raised."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not an empty folder; choose another one")


def write_format(splits: Mapping[str, Split], name: str, root: Path) -> list[str]:
    """Write splits in a format, whole or not at all.

    Args:
        splits: by name.
        name: of the format, a key of :data:`mmconvnext.data.formats.FORMATS`.
        root: a folder that is absent or empty.

    Returns:
        What the format cannot hold, in lines.

    Raises:
        DataError: the folder has something in it, a picture is absent, or an object is faulty.
    """
    check_target(root)
    if name in ONE_FILE_A_STEM:
        _check_stems(splits)
    if not splits:
        raise DataError(f"there is nothing to write to {root}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
            part = Path(temporary, root.name)
            part.mkdir()
            lost = FORMATS[name].write(_with_all_classes(splits), part)
            part.replace(root)
    except OSError as error:
        raise DataError(f"cannot write {root}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        places = ", ".join(str(split.path or split.folder) for split in splits.values())
        raise DataError(
            f"{places}: an image or object is faulty ({type(error).__name__}: {error}); "
            "mmconvnext check-data says which"
        ) from error
    return [*lost, *_notes_on_masks(splits, name)]


def _check_stems(splits: Mapping[str, Split]) -> None:
    for split in splits.values():
        names = {str(image.get("file_name")) for image in split.content["images"]}
        stems = Counter(str(Path(name).with_suffix("")) for name in names)
        twice = [name for name in sorted(names) if stems[str(Path(name).with_suffix(""))] > 1]
        if twice:
            raise DataError(
                f"{split.folder}: {' and '.join(twice[:2])} differ in their ending alone, and the "
                "format has one file for both: rename one"
            )


def _with_all_classes(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The same, but the first split, whose classes the writers take, has those of all."""
    first, *others = splits
    content = splits[first].content
    categories = list(content["categories"])
    known = {category["name"] for category in categories}
    for split in others:
        for category in splits[split].content["categories"]:
            if category["name"] not in known:
                known.add(category["name"])
                new = 1 + max((c["id"] for c in categories), default=0)
                categories.append({**category, "id": new})
    return {**splits, first: replace(splits[first], content={**content, "categories": categories})}


def _notes_on_masks(splits: Mapping[str, Split], name: str) -> list[str]:
    """Lines on masks of another form in the format: bitmaps, and parts for YOLO."""
    if name in ("coco", "voc"):
        return []
    masks = [
        entry.get("segmentation") or ()
        for split in splits.values()
        for entry in split.content["annotations"]
        if not (name == "yolo" and entry.get("iscrowd"))
    ]
    bitmaps = sum(isinstance(mask, Mapping) for mask in masks)
    lines = [f"{bitmaps} bitmaps, which became polygons without holes"] * bool(bitmaps)
    joined = sum(len(mask) > 1 for mask in masks if not isinstance(mask, Mapping))
    if name == "yolo" and joined:
        lines.append(f"{joined} objects of several parts, which became one polygon each")
    return lines
