"""Annotation files with faults: the right number, or one clear line."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from pycocotools import mask as coco_mask

from mmconvnext.data.checks import check_annotations
from mmconvnext.data.findings import FAULTS
from mmconvnext.data.names import plain_name
from mmconvnext.data.objects import read_counts
from mmconvnext.data.pictures import Picture
from mmconvnext.data.transforms import FastLoadAnnotations, FastPackDetInputs
from mmconvnext.evaluation.coco_metric import FastCocoMetric
from mmconvnext.evaluation.oracle import answer
from tests.data.faulty_coco import CLASSES, clean_files, faulty_files

# MMCONVNEXT_COCO_FILES=20000 python -m pytest tests/data/test_checks.py -k generated -s
FILES = int(os.environ.get("MMCONVNEXT_COCO_FILES", 300))
COUNTS = {"used": 0, "refused": 0}


def oracle_ap(path: str) -> dict[str, float]:
    """AP of the ground truth that MMDetection's data set loads, without pictures."""
    dataset = CocoDataset(
        path,
        metainfo={"classes": CLASSES},
        data_prefix={"img": ""},
        pipeline=[],
        test_mode=True,
        serialize_data=False,  # collects garbage, which takes most of the time
    )
    metric = FastCocoMetric(path, metric=["bbox", "segm"])
    metric.dataset_meta = dataset.metainfo
    load, pack = (
        FastLoadAnnotations(with_bbox=True, with_mask=True),
        FastPackDetInputs(meta_keys=("img_id", "ori_shape")),
    )
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shape = (info["height"], info["width"])
        sample: DetDataSample = pack(load({**info, "ori_shape": shape}))["data_samples"]
        metric.process(None, [answer(sample).to_dict()])
    return metric.evaluate(len(dataset))


@settings(
    max_examples=FILES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(content=faulty_files())
def check_generated(tmp_path, content):
    used, found = check_annotations(content, CLASSES)
    errors = found.of("error")
    for finding in found:
        assert "\n" not in str(finding)
    if errors:
        COUNTS["refused"] += 1
        return
    COUNTS["used"] += 1
    path = tmp_path / "a.json"
    path.write_text(json.dumps(used))
    for name, value in oracle_ap(str(path)).items():
        assert value in (1, -1), (name, value, [str(f) for f in found])
    _, again = check_annotations(json.loads(path.read_text()), CLASSES)
    assert not again.of("error", "repair", "fill")


def test_generated_files_have_the_right_ap_or_are_refused(tmp_path):
    check_generated(tmp_path)
    print(f"\n{COUNTS}")
    assert min(COUNTS.values()) > FILES / 10


@settings(max_examples=100, deadline=None)
@given(content=clean_files())
def test_a_clean_file_is_used_as_it_is(content):
    used, found = check_annotations(content, CLASSES)
    assert used is content
    assert not found.of("error", "repair", "fill")


def messages(content: dict, classes=CLASSES, **kwargs) -> dict[str, str]:
    """The findings of a file by their kinds."""
    return {f.kind: str(f) for f in check_annotations(content, classes, **kwargs)[1]}


def file_of(**changes) -> dict:
    """Two pictures with an object each; ``changes`` are of the first object."""
    entry = {"bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    entry["segmentation"] = [[10, 20, 40, 20, 40, 60, 10, 60]]
    annotations = [
        {**entry, "id": index, "image_id": index, "category_id": index} for index in (1, 2)
    ]
    for key, value in changes.items():
        annotations[0][key] = value
        if value is ...:
            del annotations[0][key]
    size = {"width": 100, "height": 80}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }


BOX, SQUARE, TRIANGLE = [10, 20, 30, 40], [10, 20, 40, 20, 40, 60, 10, 60], [10, 20, 40, 20, 40, 60]
POINTS, NAN = [[10, 20], [40, 20], [40, 60]], float("nan")
# A key of an object, what it is, the kind of fault, and what becomes of it: None is left out.
OBJECTS = [
    ("bbox", None, "no box", BOX),
    ("bbox", ["10", "20", "30", "40"], "numbers as text", BOX),
    ("bbox", [40, 60, -30, -40], "box of negative size", BOX),
    ("bbox", [-20, 20, 60, 40], "box over the border", [0, 20, 40, 40]),
    ("bbox", [10, 20, 0.5, 40], "box under one pixel", None),
    ("bbox", [300, 20, 30, 40], "box outside", None),
    ("bbox", [60, 20, 30, 40], "mask unlike the box", [60, 20, 30, 40]),
    ("segmentation", ..., "no mask", None),
    ("segmentation", [], "no mask", None),
    ("segmentation", SQUARE, "flat polygon", [SQUARE]),
    ("segmentation", POINTS, "polygon of points", [TRIANGLE]),
    ("segmentation", [POINTS], "polygon of points", [TRIANGLE]),
    ("segmentation", [TRIANGLE, [1, 2, 3, 4]], "broken polygon", [TRIANGLE]),
    ("segmentation", [[NAN, *TRIANGLE[1:]]], "broken polygon", None),
    ("segmentation", [[10**400, 1.5, *TRIANGLE[2:]]], "broken polygon", None),
    ("segmentation", [[-4, *TRIANGLE[1:]]], "polygon outside", [[0, *TRIANGLE[1:]]]),
    ("segmentation", {"size": [100, 80], "counts": [0, 8000]}, "run lengths of another size", None),
    ("segmentation", {"size": [80, 100], "counts": [5, 20]}, "broken run lengths", None),
    ("segmentation", {"size": [80, 100], "counts": "PPYo1"}, "broken run lengths", None),
    ("segmentation", {"size": [80, 100], "counts": [8000]}, "mask without a pixel", None),
    ("area", ..., "no area", 1200),
    ("area", 0, "no area", 1200),
    ("area", 12, "area unlike the mask's", 12),
    ("iscrowd", ..., "no iscrowd", 0),
]


@pytest.mark.parametrize(("key", "value", "kind", "expected"), OBJECTS)
def test_what_is_done_about_an_object(key, value, kind, expected):
    content = file_of(**{key: value})
    used, found = check_annotations(content, CLASSES)
    (finding,) = found
    assert (finding.kind, finding.severity) == (kind, FAULTS[kind][0])
    assert finding.records == ["annotation 1 of image 1"]
    objects = {entry["id"]: entry for entry in used["annotations"]}
    assert objects.pop(2) == content["annotations"][1]
    assert found.repaired == (finding.severity == "repair")
    left = [] if expected is None else [{**content["annotations"][0], key: expected}]
    assert list(objects.values()) == left


@pytest.mark.parametrize("value", [1, True, "1", "true"])
def test_what_is_to_be_ignored_is_a_crowd(value):
    used, found = check_annotations(file_of(ignore=value), CLASSES)
    assert [finding.kind for finding in found] == ["ignore"]
    assert used["annotations"] == file_of(iscrowd=1)["annotations"]


@pytest.mark.parametrize("value", [0, False, None, "", "0", "false", "False"])
def test_what_is_not_to_be_ignored_is_none(value):
    content = file_of(ignore=value)
    used, found = check_annotations(content, CLASSES)
    assert used is content
    assert not [*found]


def test_boxes_alone_need_no_masks():
    content = file_of(segmentation=...)
    assert check_annotations(content, CLASSES, masks=False)[0] is content


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        (lambda c: c["images"][1].update(id=1), "one image id", "images[0] with id 1, '1.png'"),
        (lambda c: c["images"][1].update(file_name="1.png"), "one file name", "images[1]"),
        (lambda c: c["images"][1].update(file_name=".//1.png"), "one file name", "'1.png'"),
        (lambda c: c["images"][0].update(id=None), "image id", "id None"),
        (lambda c: c["images"][0].update(file_name="../x.png"), "file name outside", "../x.png"),
        (lambda c: c["images"][0].update(file_name="C:\\x.png"), "file name outside", "C:"),
        (
            lambda c: c["images"][0].update(file_name="http://h/x.png"),
            "URL as file name",
            "http://h",
        ),
        (lambda c: c["images"][0].update(file_name=3), "file name", "3"),
        (lambda c: c["images"][0].pop("width"), "image size", "None x 80"),
        (lambda c: c["categories"][1].update(id=1), "one category id", "'cat' and 'dog'"),
        (lambda c: c["categories"].append({"id": 9, "name": "cat"}), "one category name", "9"),
        (lambda c: c["categories"][1].update(name=None), "category", "name None"),
        (lambda c: c["categories"][1].update(name="dgo"), "misspelt class", "in the file 'dgo'"),
        (lambda c: c["categories"][1].update(name="Dog "), "misspelt class", "in the file 'Dog '"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "only crowds", "iscrowd=1"),
        (lambda c: c["annotations"].clear(), "no objects", "nothing"),
        (lambda c: c.pop("images"), "not COCO", "no list 'images' (found: annotations"),
        (lambda c: c["annotations"][0].pop("image_id"), "not COCO", "annotations[0] has no"),
    ],
)
def test_what_refuses_a_file(change, kind, named):
    content = file_of()
    change(content)
    _, found = check_annotations(content, CLASSES)
    errors = {f.kind: str(f) for f in found.of("error")}
    assert named in errors[kind]


def test_corners_in_place_of_sizes_refuse_a_file():
    content = file_of()
    entry = content["annotations"][1]
    content["annotations"] += [{**entry, "id": i, "bbox": [50, 40, 90, 70]} for i in (3, 4)]
    content["annotations"][0]["bbox"] = entry["bbox"] = [10, 20, 40, 60]
    assert "(x1, y1, x2, y2)" in messages(content)["boxes of corners"]


def test_boxes_that_are_elsewhere_than_most_masks_refuse_a_file():
    content = file_of()
    entry = content["annotations"][1]
    content["annotations"] += [{**entry, "id": i, "bbox": [60, 20, 30, 40]} for i in (3, 4)]
    assert "boxes unlike the masks" not in messages(content)  # two of four
    content["annotations"].append({**content["annotations"][3], "id": 5})
    assert "(1: 3 of 5)" in messages(content)["boxes unlike the masks"]
    assert not messages(content, masks=False)


def test_pictures_with_more_objects_than_ap_counts_are_noted():
    content = file_of()
    entry = content["annotations"][0]
    content["annotations"] += [{**entry, "id": i} for i in range(3, 102)]
    assert "more than 100 objects" not in messages(content)
    content["annotations"].append({**entry, "id": 102})
    assert "(1: image 1 has 101)" in messages(content)["more than 100 objects"]


@pytest.mark.parametrize("name", ["image", "category"])
def test_an_object_of_nothing_is_left_out(name):
    content = file_of(**{f"{name}_id": 9})
    used, found = check_annotations(content, CLASSES)
    assert [f.kind for f in found] == [f"unknown {name}"]
    assert found.repaired == 1
    assert used["annotations"] == content["annotations"][1:]


def test_ids_as_text_on_one_side_meet():
    content = file_of()
    for entry in content["annotations"]:
        entry.update(image_id=str(entry["image_id"]), category_id=float(entry["category_id"]))
    used, found = check_annotations(content, CLASSES)
    assert [f.kind for f in found] == ["ids of another type"]
    assert used["annotations"] == file_of()["annotations"]


def test_ids_that_are_no_numbers_are_renumbered():
    content = file_of()
    for image, entry in zip(content["images"], content["annotations"], strict=True):
        image["id"] = entry["image_id"] = f"img_{image['id']}"
        del entry["id"]
    used, _ = check_annotations(content, CLASSES)
    assert used["images"] == file_of()["images"]
    assert used["annotations"] == [
        {**entry, "id": i} for i, entry in enumerate(file_of()["annotations"], start=1)
    ]


@pytest.mark.parametrize("labels", [None, ("bird", "dog", "cat", "cow")])
def test_labels_are_numbered_by_the_classes(labels):
    content = file_of()
    chosen = ("dog", "cat")
    used, found = check_annotations(content, chosen, labels=labels)
    names = [category["name"] for category in used["categories"]]
    assert tuple(names) == found.classes == (labels or chosen)
    by_id = {category["id"]: category["name"] for category in used["categories"]}
    assert [by_id[a["category_id"]] for a in used["annotations"]] == ["cat", "dog"]
    assert "'bird' with 0 objects" in messages(content, chosen)["category without class"]


def test_sizes_of_pictures_are_filled_in_and_compared():
    content = file_of()
    del content["images"][0]["height"]
    pictures = {name: Picture((100, 80), (100, 80), mode="RGB") for name in ("1.png", "2.png")}
    used, found = check_annotations(content, CLASSES, read=lambda names: pictures)
    assert [f.kind for f in found] == ["no image size"]
    assert used["images"] == file_of()["images"]
    pictures["2.png"] = Picture((80, 100), (80, 100), mode="RGB")
    said = messages(content, read=lambda names: pictures)["width and height swapped"]
    assert "100x80, the picture has 80x100" in said


@given(mask=st.lists(st.booleans(), min_size=12, max_size=12))
def test_run_lengths_are_read_as_pycocotools_writes_them(mask):
    bitmap = np.array(mask, np.uint8).reshape(3, 4)
    text = coco_mask.encode(np.asfortranarray(bitmap))["counts"].decode()
    counts = read_counts(text)
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    assert np.array_equal(flat, bitmap.flatten(order="F"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_is_used_as_it_is(coco_tiny, split):
    path = coco_tiny / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    for classes in (CocoDataset.METAINFO["classes"], None):
        used, found = check_annotations(content, classes)
        assert used is content
        assert not list(found)


def test_umlauts_are_the_same_in_both_of_unicodes_forms():
    assert plain_name("Ba\u0308r") == plain_name("b\u00e4r")
