"""YOLO's layout: ``data.yaml``, pictures, and a text file of boxes or polygons for each.

A line is ``class x y width height`` (the centre and the size of a box) or ``class x1 y1 x2 y2 ...``
(a polygon), in shares of the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmconvnext.data.formats.common import (
    CocoBuilder,
    Split,
    bring_pictures,
    objects_of,
    picture_size,
    pictures_in,
    polygons_of,
)
from mmconvnext.errors import DataError

KEYS = {"train": "train", "val": "val", "test": "test"}
DIGITS = 9  # of shares: a billionth of the picture


def find(root: Path) -> list[Path]:
    """The ``data.yaml`` of a folder, whatever its name."""
    return [p for p in sorted(root.glob("*.y*ml")) if "names" in (_load(p) or {})]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder."""
    path = find(root)[0]
    settings = _load(path)
    names = settings["names"]
    names = [names[k] for k in sorted(names)] if isinstance(names, Mapping) else names
    classes = list(map(str, names))
    splits = {}
    for key, split in KEYS.items():
        if not settings.get(key):
            continue
        folder = _folder(path, settings, key)
        builder = CocoBuilder(classes)
        for picture in pictures_in(folder):
            name = picture.relative_to(folder).as_posix()
            builder.image(name, *picture_size(picture))
            _read_labels(_labels(picture), builder, classes)
        splits[split] = Split(folder, builder.content())
    return splits


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
    parts = list(picture.with_suffix(".txt").parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts)
    return picture.with_suffix(".txt")


def _read_labels(path: Path, builder: CocoBuilder, classes: Sequence[str]) -> None:
    if not path.is_file():
        return
    width, height = builder.images[-1]["width"], builder.images[-1]["height"]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            label, *values = line.split()
            name = dict(enumerate(classes))[int(label)]
            shares = [float(value) for value in values]
        except (ValueError, KeyError):
            if line.strip():
                raise DataError(
                    f"{path}:{number}: {line!r} is no line of YOLO: a class from 0 to "
                    f"{len(classes) - 1} and numbers"
                ) from None
            continue
        sizes = [width, height] * (len(shares) // 2)
        pixels = [round(s * size, 6) for s, size in zip(shares, sizes, strict=False)]
        if len(shares) == 4:
            x, y, w, h = pixels
            builder.add(name, box=[x - w / 2, y - h / 2, w, h])
        elif len(shares) >= 6 and not len(shares) % 2:
            builder.add(name, [pixels])
        else:
            raise DataError(f"{path}:{number}: {len(shares)} numbers are neither box nor polygon")


def write(splits: Mapping[str, Split], root: Path) -> list[str]:
    """Write splits; crowds are left out, as the format has none.

    Returns:
        What the format cannot hold, in words.
    """
    names = [c["name"] for c in next(iter(splits.values())).content["categories"]]
    labels = {name: index for index, name in enumerate(names)}
    crowds = 0
    settings: dict[str, Any] = {"names": dict(enumerate(names))}
    for split, each in splits.items():
        settings[split] = f"images/{split}"
        bring_pictures(each, root / "images" / split)
        for image, objects in objects_of(each.content):
            lines = []
            for entry, name in objects:
                if entry.get("iscrowd"):
                    crowds += 1
                else:
                    lines.append(f"{labels[name]} {_line(entry, image)}\n")
            path = (root / "labels" / split / image["file_name"]).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return [f"{crowds} crowds, which YOLO has not"] * bool(crowds)


def _line(entry: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    size = (image["width"], image["height"])
    polygons = polygons_of(entry, image)
    if polygons:
        values = join(polygons)
    else:
        x, y, w, h = entry["bbox"]
        values = [x + w / 2, y + h / 2, w, h]
    shares = (value / size[index % 2] for index, value in enumerate(values))
    return " ".join(f"{share:.{DIGITS}g}" for share in shares)


def join(polygons: list[list[float]]) -> list[float]:
    """One polygon for an object of several parts, with ways there and back of no area."""
    first, *others = polygons
    joined = [*first, *first[:2] * bool(others)]
    for other in others:
        joined += [*other, *other[:2], *first[:2]]
    return joined
