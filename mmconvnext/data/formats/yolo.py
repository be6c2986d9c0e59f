"""YOLO's layout: ``data.yaml``, pictures, and a text file of boxes or polygons for each.

A line is ``class x y width height`` (the centre and the size of a box) or ``class x1 y1 x2 y2 ...``
(a polygon), in shares of the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmconvnext.data.formats import common
from mmconvnext.data.formats.common import Labelled, Shape, Split
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import Size, picture_size
from mmconvnext.errors import DataError

DIGITS = 9  # of shares: a billionth of the picture


def find(root: Path) -> dict[Path, dict[str, Any]]:
    """The ``data.yaml`` of a folder, whatever its name."""
    found = {}
    for path in sorted(root.glob("*.y*ml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not YAML: {error}") from None
        if isinstance(content, dict) and "names" in content:
            found[path] = content
    return found


def read(root: Path, found: Mapping[Path, dict[str, Any]]) -> dict[str, Split]:
    """The splits of a folder."""
    path, settings = next(iter(found.items()))
    names = settings["names"]
    names = [names[k] for k in sorted(names)] if isinstance(names, Mapping) else names
    classes = list(map(str, names))
    folders = {s: _folder(path, settings, s) for s in common.SPLIT_NAMES if settings.get(s)}
    pictures = []
    for split, folder in folders.items():
        for picture in common.pictures_in(folder):
            name, size = picture.relative_to(folder).as_posix(), picture_size(picture)
            pictures.append(Labelled(split, name, size, _shapes(_labels(picture), size, classes)))
    return common.make_splits(pictures, folders, classes)


def _folder(path: Path, settings: Mapping[str, Any], key: str) -> Path:
    """The folder of a split's pictures; exports write it relative to several places."""
    value = settings[key]
    if not isinstance(value, str):
        raise DataError(f"{path}: {key} is {value!r}; give one folder of pictures")
    bases = [path.parent / str(settings.get("path") or ""), path.parent]
    places = [base / value for base in bases]
    places += [path.parent / value.removeprefix("../"), path.parent / value / "images"]
    for place in places:
        if place.is_dir():
            return place.resolve()
    raise DataError(f"{path}: {key}: {value} is no folder beside it; correct it")


def _labels(picture: Path) -> Path:
    """Beside the picture, or in ``labels`` where that is in ``images``."""
    above, images, below = picture.with_suffix(".txt").as_posix().rpartition("/images/")
    return Path(f"{above}/labels/{below}" if images else below)


def _shapes(path: Path, size: Size, classes: Sequence[str]) -> list[Shape]:
    shapes = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            name = dict(enumerate(classes))[int(label)]
            pixels = [round(v, 6) for v in common.scaled(map(float, values), size)]
        except (ValueError, KeyError):
            raise DataError(
                f"{path}:{number}: {line!r} is no line of YOLO: a class from 0 to "
                f"{len(classes) - 1} and numbers"
            ) from None
        if len(pixels) == 4:
            x, y, w, h = pixels
            shapes.append(Shape(name, box=[x - w / 2, y - h / 2, w, h]))
        elif len(pixels) >= 6 and not len(pixels) % 2:
            shapes.append(Shape(name, [pixels]))
        else:
            raise DataError(f"{path}:{number}: {len(pixels)} numbers are neither box nor polygon")
    return shapes


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write splits without crowds, which the format has not; an object is one polygon."""
    names = common.class_names(splits)
    for split, name, size, shapes in common.place_pictures(splits, root, "images/{split}"):
        lines = [_line(s, names.index(s.label), size) for s in shapes if not s.crowd]
        path = root / "labels" / split / name
        write_whole(path.with_suffix(".txt"), "".join(lines))
    settings = {"names": dict(enumerate(names)), **{split: f"images/{split}" for split in splits}}
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    write_whole(root / "data.yaml", text)


def _line(shape: Shape, label: int, size: Size) -> str:
    x, y, w, h = shape.box
    values = _joined(shape.polygons) if shape.polygons else [x + w / 2, y + h / 2, w, h]
    shares = common.scaled(values, (1 / size[0], 1 / size[1]))
    return " ".join([str(label), *(f"{share:.{DIGITS}g}" for share in shares)]) + "\n"


def _joined(polygons: Sequence[Sequence[float]]) -> list[float]:
    """One polygon for an object of several parts, with ways there and back of no area."""
    first, *others = polygons
    joined = [*first, *first[:2] * bool(others)]
    for other in others:
        joined += [*other, *other[:2], *first[:2]]
    return joined
