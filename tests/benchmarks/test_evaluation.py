"""The detections that metrics are compared on, and how their numbers are compared."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from benchmarks import evaluation
from benchmarks.comparison import VAL, UnequalResultsError
from benchmarks.evaluation import DETECTIONS, THEIRS, TRUTH, Evaluation, check, generate
from benchmarks.worker import BenchmarkError
from tests.benchmarks.helpers import arguments, use_this_process

pytest.importorskip("hotcoco")
IMAGES, FOUND = 200, 3000


@pytest.fixture(scope="module")
def drawn(coco_tiny, tmp_path_factory):
    """A folder of ground truth and detections."""
    folder = tmp_path_factory.mktemp("drawn")
    generate(str(coco_tiny), folder, IMAGES, FOUND)
    return folder


def read(folder) -> list[dict]:
    return pickle.loads((folder / DETECTIONS).read_bytes())


def test_images_and_objects_are_real_and_come_again(drawn, coco_tiny, tmp_path):
    truth = json.loads((drawn / TRUTH).read_text())
    real = json.loads((coco_tiny / VAL[0]).read_text())
    names = [image["file_name"] for image in real["images"]]
    assert [image["file_name"] for image in truth["images"]] == (names * 3)[:IMAGES]
    assert len({image["id"] for image in truth["images"]}) == IMAGES
    first = {image["id"] for image in truth["images"][: len(names)]}
    copied = [each for each in truth["annotations"] if each["image_id"] in first]
    assert len(copied) == len(real["annotations"])
    assert len({each["id"] for each in truth["annotations"]} - {0}) == len(truth["annotations"])
    assert any(each["iscrowd"] for each in copied)
    generate(str(coco_tiny), tmp_path, IMAGES, FOUND)
    for name in (TRUTH, DETECTIONS):  # the same again
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()


def test_a_detections_mask_fills_its_box(drawn):
    samples = read(drawn)
    found = [sample["pred_instances"] for sample in samples]
    for key in ("bboxes", "scores", "labels", "masks"):
        assert {len(image[key]) for image in found} == {FOUND // IMAGES}
    for sample, image in zip(samples[:50], found, strict=False):
        assert all(mask["size"] == sample["ori_shape"] for mask in image["masks"])
        tight = mask_utils.toBbox(image["masks"])
        tight[:, 2:] += tight[:, :2]
        has_pixels = mask_utils.area(image["masks"]) > 0
        assert has_pixels.mean() > 0.9
        # pixels: the raster rounds, and thin tips vanish in it
        assert np.median(np.abs(tight - image["bboxes"])[has_pixels]) < 0.6


@pytest.mark.parametrize("detections", [1, 2, 500])
def test_most_images_may_have_nothing(coco_tiny, tmp_path, detections):
    generate(str(coco_tiny), tmp_path, 5, detections)
    assert sum(len(each["pred_instances"]["masks"]) for each in read(tmp_path)) == detections


@pytest.mark.parametrize("metric", evaluation.METRICS)
def test_both_metrics_compute_the_same(drawn, metric):
    ours, theirs = (Evaluation(str(drawn), metric, ours=is_ours) for is_ours in (True, False))
    checked = ours.check()
    assert check(THEIRS, checked, theirs.check()) == {"all": 0.0}
    assert f"coco/{metric}_mAP_75" in checked
    assert "person" in str(checked["class-wise table"])
    by_iou = [checked["precision"][i, :, :, 0, -1] for i in (0, 5, 9)]
    means = [each[each > -1].mean() for each in by_iou]
    assert 0.9 > means[0] > means[1] > means[2] > 0.01
    facts = ours.facts()
    ours.run()  # a second time, with the same result
    assert facts == ours.facts() == theirs.facts()
    assert facts["detections"] == FOUND


def checked(**changes) -> dict[str, np.ndarray]:
    arrays = {
        "coco/bbox_mAP": np.array(0.3),
        "cat_precision": np.array(np.nan),
        "precision": np.linspace(0, 1, 24).reshape(2, 3, 4),
        "class-wise table": np.array("| cat | nan |"),
    }
    return {**arrays, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coco/bbox_mAP": np.nextafter(0.3, 1)}, "in coco/bbox_mAP: 0.3.* and 0.3"),
        ({"precision": checked()["precision"] * (1 + 2**-52)}, "in precision: float64"),
        ({"precision": checked()["precision"].reshape(6, 4)}, r"in precision: float64 \(6, 4\)"),
        ({"precision": checked()["precision"].astype(np.float32)}, "in precision: float32"),
        ({"class-wise table": np.array("| cat | 0.1 |")}, "in class-wise table: .*0.1"),
        ({"cat_precision": np.array(0.0)}, "in cat_precision: 0.0 and nan"),
        ({"dog_precision": np.array(0.0)}, f"only {THEIRS} gives dog_precision"),
    ],
)
def test_the_last_bit_counts(changes, words):
    assert check(THEIRS, checked(), checked()) == {"all": 0.0}  # what is not a number, too
    changes = {name: np.array(value) for name, value in changes.items()}
    with pytest.raises(UnequalResultsError, match=words):
        check(THEIRS, checked(), checked(**changes))


def test_the_command_from_end_to_end(coco_tiny, monkeypatch):
    use_this_process(monkeypatch)
    scale = ("--images", 20, "--detections", 400, "--metric", "segm")
    report = evaluation.compare(arguments("eval", "--data-root", coco_tiny, *scale))
    (table,) = report.tables
    assert table.distances == {THEIRS: {"all": 0.0}}
    text = report.text()
    assert "segm, 20 images, " in text
    assert " objects, 400 detections" in text
    assert f"{table.facts[THEIRS]['mAP']:.3f}" in text


def test_a_subset_without_outlines_is_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    content = {"images": [{"id": 1}], "annotations": [], "categories": []}
    (tmp_path / VAL[0]).write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match="has no object with a polygon to draw from"):
        generate(str(tmp_path), tmp_path, 1, 1)
