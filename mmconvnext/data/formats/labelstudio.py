"""Label Studio's JSON of tasks; its COCO export is read as any COCO file.

Positions are in per cent of the picture's size. Regions of one ``parentID`` are one object.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from mmconvnext.data.formats.common import (
    Labelled,
    Shape,
    Split,
    class_names,
    make_splits,
    parts_of_objects,
    pictures_in,
    place_pictures,
    points_of,
    read_json,
    scaled,
    write_json,
)
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import picture_size
from mmconvnext.errors import DataError

KINDS = ("polygonlabels", "rectanglelabels")
BOX = ("x", "y", "width", "height")
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="polygon" toName="image">{labels}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>
</View>
"""


def find(root: Path) -> list[Path]:
    """Label Studio's files in a folder."""
    return [path for path in sorted(root.glob("*.json")) if _load(path) is not None]


def _load(path: Path) -> list[dict[str, Any]] | None:
    return read_json(path, b"[", b'"data"')


def read(root: Path) -> dict[str, Split]:
    """Read the tasks of a folder; the first annotation of a task, or else its prediction."""
    places = [p.relative_to(root).as_posix() for p in pictures_in(root)]
    tasks = [(path, task) for path in find(root) for task in _load(path)]
    return make_splits([_read(root, path, task, places) for path, task in tasks], root)


def _read(root: Path, path: Path, task: Mapping[str, Any], places: Sequence[str]) -> Labelled:
    name = _picture(path, task, places)
    size = picture_size(root / name)
    done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    chosen = (done or task.get("predictions") or [{}])[0]
    regions = [r for r in chosen.get("result") or () if "value" in r and r.get("type") != "choices"]
    for region in regions:
        if region.get("type") not in KINDS:
            kind = region.get("type")
            raise DataError(f"{path}: a region of type {kind} is no polygon or box: export as COCO")
        if region["value"].get("rotation"):
            raise DataError(f"{path}: a turned box on {name}: make it a polygon")
    shapes = [_shape(parts, size) for parts in parts_of_objects(regions, _group)]
    return Labelled(str((task.get("meta") or {}).get("split") or "train"), name, size, shapes)


def _picture(path: Path, task: Mapping[str, Any], places: Sequence[str]) -> str:
    """The picture of a task below the folder: where its URL says, or the only one of its name."""
    url = urlsplit(str((task.get("data") or {}).get("image", "")))
    local = unquote(parse_qs(url.query).get("d", [url.path])[0]).lstrip("/")
    name = Path(local).name
    # uploads get a prefix of eight digits
    for wanted in (local, name, name.partition("-")[2]):
        found = [p for p in places if p == wanted or p.endswith(f"/{wanted}")] if wanted else []
        if len(found) == 1:
            return found[0]
    raise DataError(f"{path}: the picture {name} of a task is not below {path.parent}, or twice")


def _group(region: Mapping[str, Any]) -> Hashable:
    return region.get("parentID") or region.get("id")


def _shape(parts: list[dict[str, Any]], size: tuple[int, int]) -> Shape:
    first, value = parts[0], parts[0]["value"]
    label = str(value[first["type"]][0])
    crowd = "iscrowd" in ((first.get("meta") or {}).get("text") or ())
    if first["type"] == "rectanglelabels":
        return Shape(label, box=_pixels([value[key] for key in BOX], size), crowd=crowd)
    points = [chain.from_iterable(part["value"]["points"]) for part in parts]
    return Shape(label, [_pixels(each, size) for each in points], crowd=crowd)


def _pixels(values: Sequence[float], size: tuple[int, int]) -> list[float]:
    return [round(value, 9) for value in scaled(values, (size[0] / 100, size[1] / 100))]


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write ``tasks.json`` with annotations, or with predictions where objects have scores.

    The labeling interface that the tasks need is written beside it, as ``label_config.xml``.
    """
    tasks = []
    for picture in place_pictures(splits, root, "images"):
        objects = enumerate(picture.shapes)
        made = {"result": [r for i, s in objects for r in _regions(s, picture.size, f"r{i}")]}
        scores = [shape.score for shape in picture.shapes if shape.score is not None]
        if scores:
            made |= {"model_version": "mmconvnext", "score": fmean(scores)}
        place = f"/data/local-files/?d=images/{picture.name}"
        kind = "predictions" if scores else "annotations"
        tasks.append({"data": {"image": place}, "meta": {"split": picture.split}, kind: [made]})
    write_json(root / "tasks.json", tasks)
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in class_names(splits))
    write_whole(root / "label_config.xml", CONFIG.format(labels=labels))


def _regions(shape: Shape, size: tuple[int, int], name: str) -> list[dict[str, Any]]:
    factors = (100 / size[0], 100 / size[1])
    common: dict[str, Any] = {"to_name": "image", "image_rotation": 0}
    common |= {"original_width": size[0], "original_height": size[1]}
    if shape.score is not None:
        common["score"] = shape.score
    if shape.crowd:
        common["meta"] = {"text": ["iscrowd"]}
    if not shape.polygons:
        value = dict(zip(BOX, scaled(shape.box, factors), strict=True))
        value |= {"rotation": 0, "rectanglelabels": [shape.label]}
        common |= {"type": "rectanglelabels", "from_name": "box", "id": name}
        return [{**common, "value": value}]
    regions = []
    for part, polygon in enumerate(shape.polygons):
        points = points_of(scaled(polygon, factors))
        value = {"points": points, "closed": True, "polygonlabels": [shape.label]}
        kind = {"type": "polygonlabels", "from_name": "polygon", "id": f"{name}p{part}"}
        parent = {"parentID": f"{name}p0"} if part else {}
        regions.append({**common, **kind, **parent, "value": value})
    return regions
