"""Which layout a folder of pictures and annotations has; reading it, and writing another one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmconvnext.data.formats import FORMATS
from mmconvnext.data.formats.common import PICTURES, Split, stem_of
from mmconvnext.data.masks import extent
from mmconvnext.errors import DataError

EXPECTED = (
    "COCO's JSON (also Roboflow's, CVAT's and Label Studio's), YOLO's data.yaml, Pascal VOC's XML, "
    "Label Studio's tasks, CVAT's XML, or labelme's JSON beside the pictures"
)
ONE_FILE_A_STEM = ("labelme", "voc", "yolo")  # a.jpg and a.png would share one file
# What formats cannot hold: what becomes of it, and which formats they are.
LOSSES = {
    "masks": ("which VOC's XML has not", ("voc",)),
    "crowds": ("which YOLO has not", ("yolo",)),
    "scores": ("which neither VOC's XML nor YOLO has", ("voc", "yolo")),
    "bitmaps": ("which became polygons without holes", ("yolo", "labelstudio", "cvat", "labelme")),
    "boxes": ("which are now those of their polygons", ("yolo", "labelstudio", "cvat", "labelme")),
    "objects of several parts": ("which became one polygon each", ("yolo",)),
    "objects of no image": ("which are left out", tuple(FORMATS.keys() - {"coco"})),
}
BOX_TOLERANCE = 0.1  # pixels; COCO rounds boxes to hundredths
# Raised where a value of an annotation file has another type than its format says.
FAULTY = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def read_layout(root: Path) -> tuple[str, dict[str, Split]]:
    """Find the one layout of a folder: the name of the format, and the splits."""
    found = {name: files for name, module in FORMATS.items() if (files := module.find(root))}
    if not found:
        files = [path for path in root.rglob("*") if path.is_file()]
        pictures = sum(path.suffix.lower() in PICTURES for path in files)
        inside = f" among its {len(files)} files, {pictures} of them pictures"
        raise DataError(
            f"{root} has no annotations of a known layout{inside if files else ': it is empty'}; "
            f"looked for were {EXPECTED}"
        )
    if len(found) > 1:
        listed = "; ".join(f"{name}: {_shown(root, files)}" for name, files in found.items())
        raise DataError(
            f"{root} has annotations of several layouts ({listed}): remove all but one, or give "
            "the folder of one"
        )
    ((name, files),) = found.items()
    place = f"{root}: its annotations ({_shown(root, files)})"
    try:
        splits = FORMATS[name].read(root, files)
    except FAULTY as error:
        raise DataError(
            f"{place} are not {name}'s, though they look like it: {type(error).__name__}: {error}"
        ) from error
    if not splits:
        raise DataError(f"{place} name no pictures of a training, validation or test split")
    return name, splits


def _shown(root: Path, files: Collection[Path]) -> str:
    names = ", ".join(path.relative_to(root).as_posix() for path in [*files][:2])
    return names + f" and {len(files) - 2} more" * (len(files) > 2)


def check_target(root: Path) -> None:
    """Check that a folder can be written: it is absent or empty, or DataError is raised."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not an empty folder; choose another one")


def write_layout(splits: Mapping[str, Split], name: str, root: Path) -> list[str]:
    """Write splits in a format, whole or not at all, to a folder that is absent or empty.

    Returns lines on what the format cannot hold.
    """
    check_target(root)
    if not splits:
        raise DataError(f"there is nothing to write to {root}")
    try:
        if name in ONE_FILE_A_STEM:
            _check_stems(splits)
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
            part = Path(temporary, root.name)
            part.mkdir()
            FORMATS[name].write(splits, part)
            lost = _losses(splits, name)
            part.replace(root)
        return lost
    except OSError as error:
        raise DataError(f"cannot write {root}: {error.strerror or error}") from error
    except FAULTY as error:
        places = ", ".join(str(split.place) for split in splits.values())
        raise DataError(
            f"{places}: an image or object is faulty ({type(error).__name__}: {error}); "
            "mmconvnext check-data says which"
        ) from error


def _check_stems(splits: Mapping[str, Split]) -> None:
    for split in splits.values():
        names: dict[str, str] = {}
        for image in split.content["images"]:
            name = image["file_name"]
            other = names.setdefault(stem_of(name), name)
            if other != name:
                raise DataError(
                    f"{split.folder}: {' and '.join(sorted((name, other)))} differ in their ending "
                    "alone, and the format has one file for both: rename one"
                )


def _has_other_box(mask: Any, box: Sequence[float]) -> bool:
    """Whether a box is not that of its polygons, which is all that a reader can give back."""
    if not mask or isinstance(mask, Mapping):
        return False
    x, y, w, h = extent(mask)
    differences = (x - box[0], y - box[1], x + w - box[0] - box[2], y + h - box[1] - box[3])
    return max(map(abs, differences)) > BOX_TOLERANCE


def _losses(splits: Mapping[str, Split], name: str) -> list[str]:
    losses = {what: outcome for what, (outcome, formats) in LOSSES.items() if name in formats}
    counts: Counter[str] = Counter()
    for split in splits.values() if losses else ():
        images = {image["id"] for image in split.content["images"]}
        for entry in split.content["annotations"]:
            mask, crowd = entry.get("segmentation"), bool(entry.get("iscrowd"))
            counts["objects of no image"] += entry["image_id"] not in images
            counts["crowds"] += crowd
            counts["masks"] += bool(mask)
            counts["scores"] += entry.get("score") is not None
            if not (crowd and "crowds" in losses):
                counts["bitmaps"] += isinstance(mask, Mapping)
                counts["boxes"] += "boxes" in losses and _has_other_box(mask, entry["bbox"])
                counts["objects of several parts"] += isinstance(mask, list) and len(mask) > 1
    return [f"{counts[what]} {what}, {outcome}" for what, outcome in losses.items() if counts[what]]
