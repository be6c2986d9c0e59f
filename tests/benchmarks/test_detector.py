"""How the detections of two detectors are compared, and the wrong arguments."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import detector
from benchmarks.comparison import UnequalResultsError
from benchmarks.detector import SAME, candidates, check
from benchmarks.peers import OURS
from benchmarks.worker import BenchmarkError

COUNT = 5


def detections(order=range(COUNT), **changes: float) -> dict[str, np.ndarray]:
    """Detections on an image, in an order, with one of them changed."""
    random = np.random.default_rng(0)
    found = {
        "boxes 0": random.uniform(0, 100, (COUNT, 4)),
        "scores 0": random.uniform(0, 1, COUNT),
        "labels 0": np.arange(COUNT) % 2,
        "masks 0": random.integers(0, 256, (COUNT, 40, 5), dtype=np.uint8),
    }
    for kind, change in changes.items():
        found[f"{kind} 0"][2] += np.array(change).astype(found[f"{kind} 0"].dtype)
    return {key: value[list(order)] for key, value in found.items()}


def test_the_order_of_equal_detections_does_not_matter():
    found = check(SAME, detections(), detections(order=(4, 2, 0, 1, 3)))
    assert found == {"boxes": 0.0, "scores": 0.0, "masks": 0.0}


def test_small_differences_are_reported():
    found = check(SAME, detections(), detections(boxes=5e-4, scores=5e-5))
    assert found["boxes"] == pytest.approx(5e-4)
    assert found["scores"] == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": 2e-3}, "the boxes of image 0 by 0.002"),
        ({"scores": 2e-4}, "the scores of image 0"),
        ({"scores": np.nan}, "the scores of image 0"),
        ({"masks": 1}, "the masks of image 0"),
        ({"labels": 1}, "detect other things on image 0: 5 and 5 objects"),
    ],
    ids=str,
)
def test_larger_ones_are_refused(changes, words):
    with pytest.raises(UnequalResultsError, match=words):
        check(SAME, detections(), detections(**changes))


def test_another_number_is_refused():
    with pytest.raises(UnequalResultsError, match="4 and 5 objects"):
        check(SAME, detections(), detections(order=range(4)))


def test_where_nothing_is_detected_nothing_is_shown():
    nothing = detections(order=())
    with pytest.raises(UnequalResultsError, match="nothing was detected"):
        check(SAME, nothing, nothing)


def test_other_networks_are_not_compared():
    assert check("MMDetection, Swin-T", detections(), detections(order=())) == {}


@pytest.mark.parametrize("kind", detector.DETECTORS)
def test_one_network_is_ours_and_one_has_its_weights(kind):
    made = {each.name: each.arguments for each in candidates(kind, {"images": 2})}
    assert [name for name, a in made.items() if "reference" not in a] == [OURS]
    assert [name for name, a in made.items() if a.get("same")] == [SAME]
    references = {a["reference"] for a in made.values() if "reference" in a}
    assert references == {made[OURS]["config"]}


def test_an_absent_folder_is_named():
    args = argparse.Namespace(device="cpu", images=1, data_root="nowhere", kind=[])
    with pytest.raises(BenchmarkError, match="--data-root nowhere"):
        detector.compare(args)
