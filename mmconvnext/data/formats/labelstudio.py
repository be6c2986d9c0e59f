"""Label Studio's JSON of tasks; its COCO export is read as any COCO file.

Positions are in per cent of the picture's size. Regions of one ``parentID`` are one object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mmconvnext.data.formats.common import (
    CocoBuilder,
    Split,
    bring_pictures,
    objects_of,
    pairs,
    picture_size,
    pictures_in,
    polygons_of,
    prefixes,
)
from mmconvnext.errors import DataError

KINDS = ("polygonlabels", "rectanglelabels")
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
    with path.open("rb") as file:
        head = file.read(1 << 16).lstrip()
    if not head.startswith(b"[") or b'"data"' not in head:
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def read(root: Path) -> dict[str, Split]:
    """Read the tasks of a folder; the first annotation of a task, or else its prediction."""
    tasks = [(path, task) for path in find(root) for task in _load(path)]
    names = sorted({_label(path, region) for path, task in tasks for region in _regions(task)})
    places = [p.relative_to(root).as_posix() for p in pictures_in(root)]
    builders: dict[str, CocoBuilder] = {}
    for path, task in tasks:
        split = str((task.get("meta") or {}).get("split") or "train")
        builder = builders.setdefault(split, CocoBuilder(names))
        name = _picture(path, task, places)
        builder.image(name, *picture_size(root / name))
        groups: dict[str, list[dict[str, Any]]] = {}
        for region in _regions(task):
            groups.setdefault(str(region.get("parentID") or region.get("id")), []).append(region)
        for parts in groups.values():
            _add(path, parts, builder)
    return {split: Split(root, builder.content()) for split, builder in builders.items()}


def _regions(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    chosen = (done or task.get("predictions") or [{}])[0]
    return [r for r in chosen.get("result") or () if "value" in r and r.get("type") != "choices"]


def _label(path: Path, region: Mapping[str, Any]) -> str:
    kind = str(region.get("type"))
    if kind not in KINDS:
        raise DataError(f"{path}: a region of type {kind} is no polygon or box: export it as COCO")
    return str(region["value"][kind][0])


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


def _add(path: Path, parts: list[dict[str, Any]], builder: CocoBuilder) -> None:
    image = builder.images[-1]
    size = (image["width"] / 100, image["height"] / 100)
    name, value = _label(path, parts[0]), parts[0]["value"]
    more = {"iscrowd": int("iscrowd" in ((parts[0].get("meta") or {}).get("text") or ()))}
    if parts[0]["type"] == "rectanglelabels":
        if value.get("rotation"):
            raise DataError(f"{path}: a turned box on {image['file_name']}: make it a polygon")
        box = [value[k] * size[i % 2] for i, k in enumerate(("x", "y", "width", "height"))]
        builder.add(name, box=[round(v, 9) for v in box], **more)
        return
    polygons = [
        [round(v * size[i], 9) for point in part["value"]["points"] for i, v in enumerate(point)]
        for part in parts
    ]
    builder.add(name, polygons, **more)


def write(splits: Mapping[str, Split], root: Path) -> list[str]:
    """Write ``tasks.json`` with annotations, or with predictions where objects have scores.

    The labeling interface that the tasks need is written beside it, as ``label_config.xml``.
    """
    tasks, starts = [], prefixes(splits)
    for split, each in splits.items():
        bring_pictures(each, root / "images" / starts[split])
        for image, objects in objects_of(each.content):
            result = [r for i, (e, name) in enumerate(objects) for r in _result(e, name, image, i)]
            task: dict[str, Any] = {
                "data": {
                    "image": f"/data/local-files/?d=images/{starts[split]}{image['file_name']}"
                },
                "meta": {"split": split},
            }
            scores = [entry["score"] for entry, _ in objects if "score" in entry]
            if scores:
                mean = sum(scores) / len(scores)
                made = {"model_version": "mmconvnext", "score": mean, "result": result}
                task["predictions"] = [made]
            else:
                task["annotations"] = [{"result": result}]
            tasks.append(task)
    text = json.dumps(tasks, ensure_ascii=False, indent=1)
    (root / "tasks.json").write_text(text, encoding="utf-8")
    categories = next(iter(splits.values())).content["categories"]
    labels = "".join(f'<Label value="{_escape(c["name"])}"/>' for c in categories)
    (root / "label_config.xml").write_text(CONFIG.format(labels=labels), encoding="utf-8")
    return []


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _result(entry: Mapping, name: str, image: Mapping, index: int) -> list[dict[str, Any]]:
    width, height = image["width"], image["height"]
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    common = {**size, "to_name": "image"}
    if "score" in entry:
        common["score"] = entry["score"]
    if entry.get("iscrowd"):
        common["meta"] = {"text": ["iscrowd"]}
    polygons = polygons_of(entry, image)
    if not polygons:
        x, y, w, h = entry["bbox"]
        keys = ("x", "y", "width", "height")
        shares = (100 * x / width, 100 * y / height, 100 * w / width, 100 * h / height)
        value = {**dict(zip(keys, shares, strict=True)), "rotation": 0, "rectanglelabels": [name]}
        kind = {"type": "rectanglelabels", "from_name": "box", "id": f"r{index}"}
        return [{**common, **kind, "value": value}]
    regions = []
    for part, polygon in enumerate(polygons):
        points = [[100 * x / width, 100 * y / height] for x, y in pairs(polygon)]
        value = {"points": points, "closed": True, "polygonlabels": [name]}
        kind = {"type": "polygonlabels", "from_name": "polygon", "id": f"r{index}p{part}"}
        parent = {"parentID": f"r{index}p0"} if part else {}
        regions.append({**common, **kind, **parent, "value": value})
    return regions
