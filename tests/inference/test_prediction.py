"""A prediction draws itself, and is what supervision, COCO and numpy take."""

import io

import numpy as np
import pytest
from PIL import Image

from mmconvnext.crops import cropped
from mmconvnext.inference.prediction import Frame, Prediction

SIZE = (500, 400)  # not enlarged
BOXES = [[10, 20, 110, 120], [200, 100, 300, 250], [5, 300, 45, 340]]
SCORES, LABELS, CLASSES = [0.9, 0.6, 0.1], [1, 0, 1], ("cat", "dog")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def prediction(masked=True):
    masks = np.zeros((3, *SIZE[::-1]), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, BOXES, strict=True):
        mask[top:bottom, left:right] = True
    gray = np.full((*SIZE[::-1], 3), 128, np.uint8)
    arrays = np.float32(BOXES), np.float32(SCORES), np.array(LABELS)
    crops = [cropped(mask) for mask in masks] if masked else None
    return Prediction(Frame("a.jpg", gray), SIZE, *arrays, crops, CLASSES, [RED, BLUE])


def test_what_it_says_and_choosing_of_it():
    found = prediction()
    assert repr(found) == "<Prediction on a.jpg: 2 dog, 1 cat>"
    assert found.names == ["dog", "cat", "dog"]
    assert found.above(0.5).names == ["dog", "cat"]
    assert found.above(0.5, {"dog": 0.05}).scores.tolist() == found.scores.tolist()
    assert found.above(0.6).names == ["dog", "cat"], "at least"
    assert found.above(0, classes=["cat"]).boxes.tolist() == [BOXES[1]]
    assert repr(found[:0]) == "<Prediction on a.jpg: no objects>"
    assert found[[2, 0]].masks.sum((1, 2)).tolist() == [1600, 10000]
    assert found[1].labels.tolist() == [0]


@pytest.mark.parametrize("masked", [True, False])
def test_a_notebook_shows_it(masked):
    picture = np.asarray(Image.open(io.BytesIO(prediction(masked)._repr_png_())))
    assert picture.shape == (400, 500, 3)
    assert picture[60, 10].tolist() == list(BLUE)
    assert picture[150, 200].tolist() == list(RED)
    inside = picture[80, 60].tolist()
    assert (inside[2] > 150 > inside[0]) if masked else inside == [128] * 3
    assert picture[320, 20].tolist() == [128] * 3, "its score is too low"


def test_numpy_and_coco():
    found = prediction()
    assert set(found.numpy()) == {"boxes", "scores", "labels", "masks"}
    entries = found.coco(image_id=4, first_id=8)
    assert [(e["id"], e["image_id"], e["category_id"], e["category"]) for e in entries] == [
        (8, 4, 2, "dog"), (9, 4, 1, "cat"), (10, 4, 2, "dog"),
    ]  # fmt: skip
    assert entries[1]["bbox"] == [200, 100, 100, 150]
    assert [entry["area"] for entry in entries] == [10000, 15000, 1600]
    boxes = prediction(masked=False)
    assert set(boxes.numpy()) == {"boxes", "scores", "labels"}
    assert [entry["area"] for entry in boxes.coco()] == [10000, 15000, 1600]
    assert "segmentation" not in boxes.coco()[0]


@pytest.mark.parametrize("masked", [True, False])
def test_supervision(masked):
    supervision = pytest.importorskip("supervision")
    found = prediction(masked)
    detections = found.supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.xyxy, found.boxes)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    assert detections.data["class_name"].tolist() == found.names
    assert (detections.mask is not None) == masked
    if masked:
        np.testing.assert_array_equal(detections.mask, found.masks)
    assert len(detections[detections.class_id == 1]) == 2
    assert len(found[:0].supervision()) == 0
