"""COCO -> a format -> COCO: nothing is lost that both hold."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmconvnext.data.formats import FORMATS, Split
from mmconvnext.data.layouts import read_layout, write_layout
from mmconvnext.data.masks import encode, run_lengths

NAMES = ("a cat", "Bär", "狗")
MASKLESS = {"voc"}
LOST = {"coco": [], "voc": ["masks"], "yolo": ["crowds", "objects of several parts"]}
SQUARE = [10.25, 20, 40, 20.5, 40, 60, 10, 60]
TRIANGLE = [50, 10, 70, 10, 60, 30.125]


def box_of(polygons):
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
    low, high = points.min(0), points.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def rectangle(x, y, w, h):
    mask = np.zeros((80, 100), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return run_lengths(mask)


def make(
    root, names=NAMES, splits=("train", "val"), pictures=2, name="{split} {index}.png"
) -> dict[str, Split]:
    """Splits with objects of one part and of two, a box, a crowd, and a picture without objects."""
    made = {}
    for split in splits:
        images, annotations = [], []
        folder = root / split
        folder.mkdir(parents=True)
        for index in range(1, pictures + 1):
            file = name.format(split=split, index=index)
            shade = np.full((80, 100, 3), 40 * index + 7 * len(split), np.uint8)
            cv2.imwrite(str(folder / file), shade)
            images.append({"id": index, "file_name": file, "width": 100, "height": 80})
        objects = [
            {"segmentation": [SQUARE], "bbox": box_of([SQUARE])},
            {"segmentation": [SQUARE, TRIANGLE], "bbox": box_of([SQUARE, TRIANGLE])},
            {"bbox": [5.5, 6.25, 30, 40]},
            {"segmentation": rectangle(60, 40, 20, 30), "bbox": [60, 40, 20, 30], "iscrowd": 1},
        ]
        for index, entry in enumerate(objects):
            ids = {"id": index + 1, "image_id": 1, "category_id": index % len(names) + 1}
            annotations.append({"area": 900.0, "iscrowd": 0, **ids, **entry})
        categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        made[split] = Split(folder, content)
    return made


def summary(split: Split, masks: bool, crowds: bool) -> Counter:
    """Its pictures and objects, without ids and order."""
    content = split.content
    names = {c["id"]: c["name"] for c in content["categories"]}
    images = {i["id"]: i for i in content["images"]}
    found = Counter()
    for image in images.values():
        path = split.folder / image["file_name"]
        found[(path.name, image["width"], image["height"], path.is_file())] += 1
    for entry in content["annotations"]:
        image = images[entry["image_id"]]
        if entry["iscrowd"] and not crowds:
            continue
        box = tuple(np.round(entry["bbox"], 5).tolist())
        mask = entry.get("segmentation") if masks else None
        area = 0
        if mask:
            area = int(coco_mask.area(encode(mask, image["width"], image["height"])))
            box = ()
        name = (split.folder / image["file_name"]).name
        found[(name, names[entry["category_id"]], box, area, entry["iscrowd"])] += 1
    return found


def written(tmp_path, made, name) -> dict[str, Split]:
    """What a format gives back of splits; what it has to lose is said."""
    lost = write_layout(made, name, tmp_path / "out")
    assert [line.split(", ")[0].partition(" ")[2] for line in lost] == LOST.get(name, ["bitmaps"])
    found, read = read_layout(tmp_path / "out")
    assert found == name
    return read


def same(found: Split, given: Split, name: str) -> bool:
    """Whether both have the same, but for what the format cannot hold."""
    masks, crowds = name not in MASKLESS, name != "yolo"
    return summary(found, masks, crowds) == summary(given, masks, crowds)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_nothing_is_lost_that_both_hold(tmp_path, name, splits):
    made = make(tmp_path / "in", splits=splits)
    read = written(tmp_path, made, name)
    assert tuple(read) == splits
    for split in splits:
        assert same(read[split], made[split], name)
        names = [c["name"] for c in read[split].content["categories"]]
        assert names == (list(NAMES) if name in ("coco", "yolo") else sorted(NAMES))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_pictures_of_one_name_in_two_splits_are_kept_apart(tmp_path, name, ending):
    made = make(tmp_path / "in", name="{index}.png")
    if ending != "png":  # they differ in that alone
        for image in made["val"].content["images"]:
            old = made["val"].folder / image["file_name"]
            image["file_name"] = f"{old.stem}.bmp"
            cv2.imwrite(str(old.with_suffix(".bmp")), cv2.imread(str(old)))
    read = written(tmp_path, made, name)
    for split, each in read.items():
        pairs = zip(each.content["images"], made[split].content["images"], strict=True)
        for image, given in pairs:
            ours, theirs = each.folder / image["file_name"], made[split].folder / given["file_name"]
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - MASKLESS))
def test_polygons_are_those_that_were_written(tmp_path, name):
    read = written(tmp_path, make(tmp_path / "in", splits=("train",)), name)["train"]
    masks = [e.get("segmentation") for e in read.content["annotations"]]
    polygons = [mask for mask in masks if isinstance(mask, list)]
    assert any(len(p) == 1 and np.allclose(p[0], SQUARE, atol=1e-6) for p in polygons)
    if name != "yolo":
        (two,) = [p for p in polygons if len(p) == 2]
        assert np.allclose(two[0], SQUARE, atol=1e-6)
        assert np.allclose(two[1], TRIANGLE, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_real_annotations(tmp_path, coco_tiny, name):
    content = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    chosen = {c["id"] for c in content["categories"][:8]}
    content["categories"] = [c for c in content["categories"] if c["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in chosen]
    used = {a["image_id"] for a in content["annotations"]}
    content["images"] = [i for i in content["images"] if i["id"] in used]
    split = Split(coco_tiny / "val2017", content)
    write_layout({"val": split}, name, tmp_path / "out")
    (found,) = read_layout(tmp_path / "out")[1].values()
    assert len(found.content["images"]) == len(content["images"])
    kept = [a for a in content["annotations"] if name != "yolo" or not a["iscrowd"]]
    assert len(found.content["annotations"]) == len(kept)
    if name in MASKLESS:
        assert same(found, split, name)
    else:  # polygons of several parts that overlap are joined by YOLO
        ours, theirs = (
            sorted(k[3] for k in summary(s, True, name != "yolo").elements() if len(k) == 5)
            for s in (found, split)
        )
        assert np.allclose(ours, theirs, rtol=0.1, atol=30)


@pytest.mark.parametrize("name", FORMATS)
def test_scores_are_kept_or_said_to_be_lost(tmp_path, name):
    made = make(tmp_path / "in", splits=("train",))
    scores = [0.123456789, 0.5, 0.75, 1.0]
    for entry, score in zip(made["train"].content["annotations"], scores, strict=True):
        entry["score"] = score
    lost = write_layout(made, name, tmp_path / "out")
    found = read_layout(tmp_path / "out")[1]["train"].content["annotations"]
    if name in ("voc", "yolo"):
        assert any(line.startswith("4 scores, which neither") for line in lost)
        assert all("score" not in entry for entry in found)
    else:
        assert sorted(entry["score"] for entry in found) == pytest.approx(scores, abs=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_boxes_that_become_those_of_their_polygons_are_said(tmp_path, name):
    made = make(tmp_path / "in", splits=("train",))
    made["train"].content["annotations"][0]["bbox"] = [0, 0, 90, 70]
    lost = write_layout(made, name, tmp_path / "out")
    said = "1 boxes, which are now those of their polygons" in lost
    assert said == (name not in ("coco", "voc"))
