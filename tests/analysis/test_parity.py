"""What counts as the same in the predictions of two detectors."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmconvnext.analysis.parity import compare
from mmconvnext.crops import cropped
from mmconvnext.inference.prediction import Frame, Prediction

SIZE = (40, 30)


def found(boxes, scores, labels=None, masked=True):
    masks = np.zeros((len(boxes), *SIZE[::-1]), dtype=bool)
    for mask, (left, top, right, bottom) in zip(masks, np.int64(boxes).reshape(-1, 4), strict=True):
        mask[top:bottom, left:right] = True
    crops = [cropped(mask) for mask in masks] if masked else None
    arrays = np.float32(boxes).reshape(-1, 4), np.float32(scores)
    labels = np.int64([0] * len(boxes) if labels is None else labels)
    return Prediction(Frame("a.jpg", None), SIZE, *arrays, labels, crops, ("cat", "dog"), ())


def parity(mine, theirs):
    both = [SimpleNamespace(predict=lambda pictures, each=e: iter([each])) for e in (mine, theirs)]
    return compare(*both, ["a.jpg"])


A, B = [1, 1, 11, 11], [20, 5, 30, 15]


@pytest.mark.parametrize("masked", [True, False])
def test_the_same_objects_in_another_order_are_equal(masked):
    result = parity(
        found([A, B], [0.9, 0.5], masked=masked), found([B, A], [0.5, 0.9], None, masked)
    )
    assert result.equal
    assert (result.objects, result.box, result.score, result.mask) == (2, 0, 0, 0)
    assert str(result).startswith("equal: 2 objects in 1 pictures of 1 sizes")


def test_nothing_is_equal_to_nothing():
    assert parity(found([], []), found([], [])).equal


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "names"),
    [
        ([A], [0.9], [0], ["only the checkpoint: cat 0.8000 at [20.0, 5.0, 30.0, 15.0] of a.jpg"]),
        ([A, B], [0.9, 0.8], [0, 1], ["checkpoint: cat 0.8000", "exported file: dog 0.8000"]),
        (
            [A, [22, 5, 32, 15]],
            [0.9, 0.8],
            [0, 0],
            ["checkpoint: cat", "file: cat 0.8000 at [22.0"],
        ),
    ],
)
def test_objects_that_only_one_has_are_named(boxes, scores, labels, names):
    mine = found([A, B, [0, 20, 9, 29]], [0.9, 0.8, 0.1])
    last = [[0, 20, 9, 29]], [0.1], [0]
    result = parity(
        mine, found(*(a + b for a, b in zip((boxes, scores, labels), last, strict=True)))
    )
    assert not result.equal
    assert len(result.others) == len(names)
    for name, line in zip(names, result.others, strict=True):
        assert name in line
    assert "NOT EQUAL" in str(result)


def test_what_has_the_least_score_is_a_tie():
    assert parity(found([A, B], [0.9, 0.1]), found([A], [0.9])).others == [], "B could be cut off"
    assert parity(found([A, B], [0.9, 0.1]), found([A, [0, 20, 9, 29]], [0.9, 0.1])).equal


def test_differences_have_limits():
    moved = [1, 1, 11, 11.02]
    assert parity(found([A], [0.9]), found([moved], [0.9])).box == pytest.approx(0.02, rel=1e-3)
    assert not parity(found([A], [0.9]), found([moved], [0.9])).equal
    assert not parity(found([A], [0.9]), found([A], [0.8998])).equal
    other = found([A], [0.9])
    other.crops[0].bitmap[0] = False
    assert parity(found([A], [0.9]), other).mask == pytest.approx(0.1)
    assert not parity(found([A], [0.9]), other).equal
