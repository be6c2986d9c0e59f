"""How the detections of two detectors are compared, who is compared, and one at work."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import detector
from benchmarks.comparison import Results, UnequalResultsError
from benchmarks.detector import SAME, Detector, check
from benchmarks.roofline import GEMM
from benchmarks.worker import Timing
from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.config import load_config
from tests.benchmarks.helpers import arguments, cells

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


@pytest.mark.parametrize(
    ("theirs", "distances"),
    [
        (detections(order=(4, 2, 0, 1, 3)), {"boxes": 0, "scores": 0, "masks": 0}),
        (detections(boxes=5e-4, scores=5e-5), {"boxes": 5e-4, "scores": 5e-5, "masks": 0}),
    ],
)
def test_distances_whatever_the_order(theirs, distances):
    assert check(SAME, detections(), theirs) == pytest.approx(distances)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": 2e-3}, "the boxes of image 0 by 0.002"),
        ({"scores": 2e-4}, "the scores of image 0"),
        ({"scores": np.nan}, "the scores of image 0"),
        ({"masks": 1}, "the masks of image 0"),
        ({"labels": 1}, "detect other things on image 0: 5 and 5 objects"),
        ({"order": range(4)}, "4 and 5 objects"),
    ],
    ids=str,
)
def test_larger_ones_are_refused(changes, words):
    with pytest.raises(UnequalResultsError, match=words):
        check(SAME, detections(), detections(**changes))


def test_where_nothing_is_detected_nothing_is_shown():
    nothing = detections(order=())
    with pytest.raises(UnequalResultsError, match="nothing was detected"):
        check(SAME, nothing, nothing)
    one_of_two = {**detections(), **{key.replace("0", "1"): v for key, v in nothing.items()}}
    assert check(SAME, one_of_two, one_of_two)["boxes"] == 0
    # other networks detect something else
    assert check("MMDetection, Swin-T", detections(), nothing) == {}


def test_the_command(monkeypatch, coco_tiny):
    """One network is ours and one has its weights; the published ratios stand beside the times."""

    def run(candidates, args, check, title):
        *detectors, _ = candidates
        made = {each.name: each.arguments for each in detectors}
        first = next(iter(made.values()))
        assert [name for name, a in made.items() if "reference" not in a] == ["ours"]
        assert [name for name, a in made.items() if a.get("same")] == [SAME]
        assert {a["reference"] for a in made.values() if "reference" in a} == {first["config"]}
        facts = {each.name: {"operations": 1e11, "images": 2, **each.facts} for each in candidates}
        facts["ours"]["operations"] = 0  # kernels that torch does not count
        return Results(title, {each.name: [Timing(2.0)] for each in candidates}, facts=facts)

    monkeypatch.setattr(detector, "run", run)
    text = detector.compare(arguments("detector", "--data-root", coco_tiny, "--images", 2)).text()
    assert "mask_rcnn, ConvNeXt-T, 2 images at full size, cpu" in text
    assert cells(text, "  ")[-4:] == ["images/s", "published", "GFLOP/s", "of GEMM"]
    assert cells(text, "ours")[-4:] == ["1.000", "1.00", "50", "100%"]
    assert cells(text, "MMDetection, Swin-T")[-3] == "1.11"
    assert cells(text, "MMDetection, ResNet-50")[-3] == "-"
    assert cells(text, GEMM)[-2:] == ["50", "100%"]


@pytest.mark.slow
def test_a_detector_at_work(coco_tiny):
    config = "mask_rcnn_convnextv2_atto_coco.py"
    work = {"data_root": str(coco_tiny), "images": 1, "device": "cpu", "scale": (320, 192)}
    ours = Detector(config, **work)
    peer = Detector(config, reference=config, same=True, **work)
    checked = ours.check()
    assert max(check(SAME, checked, peer.check()).values()) < 1e-4
    facts = ours.facts()
    assert facts["detections"] == len(checked["boxes 0"]) > 0
    assert facts["operations"] > 0
    shape = next(s for s in ((192, 256), (192, 288), (192, 320)) if np.prod(s) == facts["pixels"])
    cost = count_config(load_config(config), shape)
    assert (facts["multiply_adds"], facts["parameters"]) == (cost.flops, cost.params)
