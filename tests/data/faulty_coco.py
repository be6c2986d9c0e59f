"""COCO files with the faults that people's files have, by hypothesis."""

import contextlib
import copy
from typing import Any

from hypothesis import strategies as st

CLASSES = ("cat", "dog", "bird")
ODD_NUMBERS = st.sampled_from(
    [float("nan"), float("inf"), None, "3.5", "x", -5, 0, 0.2, 1e6, 1e300, 10**40, True, [], {}]
)
BROKEN_COUNTS = [5, 20], [-3], "5", "PPYo1", "o" * 40, [0, 10**12], None, ["a"], "\x00\xff"


@st.composite
def clean_files(draw: st.DrawFn) -> dict[str, Any]:
    """A file without faults: up to three images, up to four objects each."""
    images, annotations = [], []
    for image_id in range(1, draw(st.integers(1, 3)) + 1):
        width, height = draw(st.integers(24, 90)), draw(st.integers(24, 90))
        name = f"{image_id}.png"
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for _ in range(draw(st.integers(image_id == 1, 4))):
            x, y = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
            w, h = draw(st.integers(8, width - x)), draw(st.integers(8, height - y))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": draw(st.integers(1, 3)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


@st.composite
def faulty_files(draw: st.DrawFn) -> dict[str, Any]:
    """A file with up to four faults of the kinds below, in one object or in all."""
    content = draw(clean_files())
    kinds = draw(st.lists(st.sampled_from(sorted(_FAULTS)), max_size=4))
    # last what leaves entries of other types
    for kind in sorted(kinds, key=lambda kind: kind == "lists"):
        _FAULTS[kind](draw, content)
    return content


def _objects(draw: st.DrawFn, content: dict) -> list[dict]:
    entries = content["annotations"]
    if not entries or draw(st.booleans()):
        return entries
    return [draw(st.sampled_from(entries))]


def _boxes(draw: st.DrawFn, content: dict) -> None:
    place, odd = draw(st.integers(0, 3)), draw(ODD_NUMBERS)
    shift = draw(st.sampled_from([-200, -30, -2, -0.4, 0.4, 2, 30, 200]))
    changes = {
        "corners": lambda x, y, w, h: [x, y, x + w, y + h],
        "negative": lambda x, y, w, h: [x + w, y + h, -w, -h],
        "zero": lambda x, y, w, h: [x, y, 0, h],
        "shift": lambda x, y, w, h: [x + shift, y, w, h],
        "odd": lambda *box: [odd if i == place else v for i, v in enumerate(box)],
        "text": lambda *box: [str(v) for v in box],
        "short": lambda *box: [*box[:place]],
    }
    change = changes[draw(st.sampled_from(sorted(changes)))]
    for entry in _objects(draw, content):
        # other faults may have left what is no box
        with contextlib.suppress(TypeError):
            entry["bbox"] = change(*entry["bbox"])


def _masks(draw: st.DrawFn, content: dict) -> None:
    odd, cut = draw(ODD_NUMBERS), draw(st.integers(0, 7))
    shift = draw(st.sampled_from([-300, -20, -1, 0.3, 1, 20, 300]))
    counts = draw(st.sampled_from([*BROKEN_COUNTS]))
    size = draw(st.sampled_from([None, [1, 1], "x", "that of the image"]))
    values = {"null": None, "empty": [], "text": "polygon"}
    changes = {
        "flat": lambda p: p,
        "points": lambda p: [[x, y] for x, y in zip(p[::2], p[1::2], strict=True)],
        "list of points": lambda p: [[[x, y] for x, y in zip(p[::2], p[1::2], strict=True)]],
        "cut": lambda p: [p[:cut]],
        "odd": lambda p: [[odd, *p[1:]]],
        "shift": lambda p: [[v + shift for v in p]],
        "thin": lambda p: [[*p[:2], p[0] + 9, p[1] + 9, p[0] + 9.1, p[1] + 9.1]],
    }
    kind = draw(st.sampled_from(sorted({*values, *changes, "absent", "run lengths"})))
    sizes = {image["id"]: image for image in content["images"] if _hashable(image.get("id"))}
    for entry in _objects(draw, content):
        image = sizes.get(entry["image_id"], {}) if _hashable(entry["image_id"]) else {}
        if kind == "absent":
            entry.pop("segmentation", None)
        elif kind == "run lengths":
            own = [image.get("height"), image.get("width")]
            chosen = own if size == "that of the image" else size
            entry["segmentation"] = {"size": chosen, "counts": copy.copy(counts)}
        elif kind in values:
            entry["segmentation"] = copy.copy(values[kind])
        else:  # other faults may have left what is no polygon
            with contextlib.suppress(TypeError, ValueError, LookupError):
                entry["segmentation"] = changes[kind](entry["segmentation"][0])


def _values(draw: st.DrawFn, content: dict) -> None:
    key = draw(st.sampled_from(("area", "iscrowd", "id", "ignore", "width", "height", "file_name")))
    value = draw(
        st.one_of(st.just("absent"), ODD_NUMBERS, st.sampled_from([1, 0, "1", r"a\1.png", "/x"]))
    )
    of_image = key in ("width", "height", "file_name")
    entries = content["images"] if of_image else _objects(draw, content)
    for entry in entries[:1] if of_image else entries:
        if value == "absent":
            entry.pop(key, None)
        else:
            entry[key] = value


def _references(draw: st.DrawFn, content: dict) -> None:
    key = draw(st.sampled_from(("image_id", "category_id", "id")))
    value = draw(st.sampled_from([0, 1, 2, 99, -1, "text", "1", 1.0, 1.5, None, [1], True]))
    for entry in _objects(draw, content):
        if value == "text":
            entry[key] = str(entry.get(key))
        else:
            entry[key] = copy.copy(value)


def _lists(draw: st.DrawFn, content: dict) -> None:
    name = draw(st.sampled_from(("images", "annotations", "categories")))
    kind = draw(st.sampled_from(("twice", "gone", "empty", "other", "renamed")))
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        return
    if kind == "twice":
        entries.append(copy.deepcopy(entries[0]))
    elif kind == "gone":
        entries.pop(0)
    elif kind == "empty":
        content[name] = []
    elif kind == "other":
        entries.append(draw(st.sampled_from([None, 3, "x", {}, []])))
    elif name == "categories" and isinstance(entries[0], dict):
        entries[0]["name"] = draw(st.sampled_from(["Cat", "cat ", "dgo", "", None, "zebra"]))


def _order(draw: st.DrawFn, content: dict) -> None:
    """Categories in another order, under other ids."""
    categories = content.get("categories")
    if not isinstance(categories, list) or not all(isinstance(c, dict) for c in categories):
        return
    content["categories"] = draw(st.permutations(categories))
    gap = draw(st.sampled_from([0, 1, 40]))
    for entry in (*categories, *content["annotations"]):
        key = "id" if entry in categories else "category_id"
        if isinstance(entry, dict) and type(entry.get(key)) is int:
            entry[key] = entry[key] * (gap or 1) + gap


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str | float | None)


_FAULTS = {
    "boxes": _boxes,
    "masks": _masks,
    "values": _values,
    "references": _references,
    "lists": _lists,
    "order": _order,
}
