"""Label Studio's JSON of tasks; its COCO export is read as any COCO file.

Positions are in per cent of the picture's size. Regions of one ``parentID`` are one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from mmconvnext.data.formats import common
from mmconvnext.data.formats.common import Labelled, Shape, Split
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import Size
from mmconvnext.errors import DataError

KINDS = ("polygonlabels", "rectanglelabels")
BOX = ("x", "y", "width", "height")
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <PolygonLabels name="polygon" toName="image">{labels}</PolygonLabels>
  <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>
</View>
"""


def find(root: Path) -> dict[Path, list[dict[str, Any]]]:
    """Label Studio's files in a folder."""
    files = {path: common.read_json(path, b"[", b'"data"') for path in sorted(root.glob("*.json"))}
    return {path: tasks for path, tasks in files.items() if tasks is not None}


def read(root: Path, found: Mapping[Path, list[dict[str, Any]]]) -> dict[str, Split]:
    """The tasks of a folder; the first annotation of a task, or else its prediction."""
    finder = common.PictureFinder(root)
    pictures = [_read(path, task, finder) for path, tasks in found.items() for task in tasks]
    return common.make_splits(pictures, root)


def _read(path: Path, task: Mapping[str, Any], finder: common.PictureFinder) -> Labelled:
    url = urlsplit(str((task.get("data") or {}).get("image", "")))
    place = unquote(parse_qs(url.query).get("d", [url.path])[0])
    # uploads get a prefix of eight digits
    name, size = finder.find(path, place, Path(place).name.partition("-")[2])
    done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    chosen = (done or task.get("predictions") or [{}])[0]
    shapes = []
    for region in chosen.get("result") or ():
        if "value" in region and region.get("type") != "choices":
            shape = _shape(path, name, region, size)
            # what somebody has looked at is no prediction any more
            score = None if done else common.score_of(region.get("score"))
            shapes.append((region.get("parentID") or region.get("id"), shape._replace(score=score)))
    split = str((task.get("meta") or {}).get("split") or "train")
    return Labelled(split, name, size, common.merged(shapes, size))


def _shape(path: Path, name: str, region: Mapping[str, Any], size: Size) -> Shape:
    kind, value = region.get("type"), region["value"]
    if kind not in KINDS:
        raise DataError(f"{path}: a region of type {kind} is no polygon or box: export it as COCO")
    if value.get("rotation"):
        raise DataError(f"{path}: a turned box on {name}: make it a polygon")
    crowd = "iscrowd" in ((region.get("meta") or {}).get("text") or ())
    shape = Shape(str(value[kind][0]), crowd=crowd)
    if kind == "rectanglelabels":
        return shape._replace(box=_pixels([value[key] for key in BOX], size))
    return shape._replace(polygons=[_pixels(chain.from_iterable(value["points"]), size)])


def _pixels(values: Iterable[float], size: Size) -> list[float]:
    return [round(value, 9) for value in common.scaled(values, (size[0] / 100, size[1] / 100))]


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write ``tasks.json`` with annotations, or with predictions where objects have scores.

    The labeling interface that the tasks need is written beside it, as ``label_config.xml``.
    """
    tasks = []
    for split, name, size, shapes in common.place_pictures(splits, root, "images"):
        regions = [r for i, shape in enumerate(shapes) for r in _regions(shape, size, f"r{i}")]
        made: dict[str, Any] = {"result": regions}
        scores = [shape.score for shape in shapes if shape.score is not None]
        if scores:
            made |= {"model_version": "mmconvnext", "score": fmean(scores)}
        place = f"/data/local-files/?d=images/{name}"
        kind = "predictions" if scores else "annotations"
        tasks.append({"data": {"image": place}, "meta": {"split": split}, kind: [made]})
    common.write_json(root / "tasks.json", tasks)
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in common.class_names(splits))
    write_whole(root / "label_config.xml", CONFIG.format(labels=labels))


def _regions(shape: Shape, size: Size, name: str) -> list[dict[str, Any]]:
    factors = (100 / size[0], 100 / size[1])
    facts: dict[str, Any] = {"to_name": "image", "image_rotation": 0}
    facts |= {"original_width": size[0], "original_height": size[1]}
    if shape.score is not None:
        facts["score"] = shape.score
    if shape.crowd:
        facts["meta"] = {"text": ["iscrowd"]}
    if not shape.polygons:
        value = dict(zip(BOX, common.scaled(shape.box, factors), strict=True))
        value |= {"rotation": 0, "rectanglelabels": [shape.label]}
        facts |= {"type": "rectanglelabels", "from_name": "box", "id": name}
        return [{**facts, "value": value}]
    regions = []
    for part, polygon in enumerate(shape.polygons):
        points = common.points_of(common.scaled(polygon, factors))
        value = {"points": points, "closed": True, "polygonlabels": [shape.label]}
        kind = {"type": "polygonlabels", "from_name": "polygon", "id": f"{name}p{part}"}
        parent = {"parentID": f"{name}p0"} if part else {}
        regions.append({**facts, **kind, **parent, "value": value})
    return regions
