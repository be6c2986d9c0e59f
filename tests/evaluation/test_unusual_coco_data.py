"""Data that hotcoco refuses or counts in another way: the numbers are still MMDetection's."""

import json

import numpy as np
import pytest

from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import FastCocoMetric
from tests.evaluation.coco_data import CATEGORIES, assert_same, both, computed

pytest.importorskip("hotcoco")
SETTINGS = {"metric": ["bbox", "segm"], "classwise": True}


def renamed(rename):
    """Change the ids of images, of the ground truth and of the detections."""

    def change(content, results):
        for image in content["images"]:
            image["id"] = rename(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = rename(annotation["image_id"])
        for pair in results:
            for each in pair:
                each["img_id"] = rename(each["img_id"])

    return change


def numbered(number):
    def change(content, results):
        for index, annotation in enumerate(content["annotations"]):
            annotation["id"] = number(index)

    return change


def set_every_fifth(key, value):
    def change(content, results):
        for _, found in results:
            found[key][::5] = value

    return change


def compare(data, change) -> dict:
    """Both metrics' numbers, which must be the same, after a change of the data."""
    path, results = data
    content = json.loads(path.read_text())
    change(content, results)
    path.write_text(json.dumps(content))
    ours, theirs = both(path, results, **SETTINGS)
    assert_same(ours, theirs)
    return ours


def without(found, labels=np.int64):
    """A prediction without detections."""
    empty = {k: v[:0] for k, v in found.items() if k != "img_id"}
    return {**found, **empty, "labels": np.zeros(0, labels)}


def licensed(content, results):
    for image in content["images"]:
        image["license"] = "CC"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (numbered(lambda index: index), "an annotation has the id 0"),
        (numbered(lambda index: index // 2 + 1), "annotations have the same id"),
        (renamed("image {}".format), "ids of images or categories are no whole numbers"),
        (renamed(lambda number: 2**53 + number), "are no whole numbers below 2**53"),
        (renamed(lambda number: number - 6), "hotcoco cannot read the ground truth: images"),
        (licensed, "hotcoco cannot read the ground truth: images[0]: field 'license'"),
        (set_every_fifth("scores", np.nan), "are not numbers"),
        (set_every_fifth("mask_scores", np.nan), "are not numbers"),
        (set_every_fifth("bboxes", np.nan), "are not numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # pycocotools' arithmetic with NaN
def test_pycocotools_does_it_and_the_log_says_why(data, change, reason, notes):
    compare(data, change)
    (note,) = (line for line in notes() if line.startswith("FastCocoMetric leaves"))
    assert reason in note


@pytest.mark.parametrize(
    "change",
    [
        set_every_fifth("scores", np.inf),
        set_every_fifth("scores", 0),
        renamed(lambda number: 100 - number),
        lambda content, results: content.update(annotations=[]),
        lambda content, results: content.pop("annotations"),
        lambda content, results: content.update(info=None, licenses=None),
        lambda content, results: results.__delitem__(slice(3)),
        lambda content, results: results.extend(results[:2]),
        lambda content, results: [found.pop("mask_scores") for _, found in results],
        lambda content, results: [found.update(without(found)) for _, found in results],
        # torch.zeros(0), from some heads, has another type
        lambda content, results: results[3][1].update(without(results[3][1], np.float32)),
    ],
)
def test_hotcoco_does_it(data, change, notes):
    assert bool(compare(data, change)) == any(len(found["labels"]) for _, found in data[1])
    assert not any("leaves" in line for line in notes())


def test_detections_on_an_unknown_image_are_an_error(data):
    path, results = data
    results[2][1]["img_id"] = 999
    with pytest.raises(ConfigError, match="image 999, on which something was detected, is not in"):
        computed(FastCocoMetric, results, ann_file=str(path))


def test_classes_keep_their_ap_when_categories_are_not_sorted(data):
    """MMDetection's table is wrong there; so it is compared with that of the sorted file."""
    path, results = data
    content = json.loads(path.read_text())
    numbers = []
    for categories in (CATEGORIES, CATEGORIES[::-1]):
        path.write_text(json.dumps({**content, "categories": categories}))
        classes = [each["name"] for each in categories]
        settings = {"ann_file": str(path), **SETTINGS}
        numbers.append(computed(FastCocoMetric, results, classes, **settings))
        for _, found in results:
            found["labels"] = 2 - found["labels"]
    names = [key for key in numbers[0] if key.endswith("_precision")]
    assert len({numbers[0][name] for name in names}) > 1
    assert {**numbers[0]} == {**numbers[1]}
