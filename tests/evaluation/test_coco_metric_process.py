"""What the metric keeps of each image, and how several processes bring that together."""

import copy
import pickle

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.structures import InstanceData
from pycocotools import mask as mask_utils

from mmconvnext.evaluation.coco_metric import FastCocoMetric
from tests.evaluation.coco_data import CLASSES, assert_same
from tests.evaluation.coco_processes import evaluate_a_half, processed
from tests.processes import in_two_processes

SIZE = (12, 17)
KINDS = ["bbox", "segm"]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def sample(number=5, device="cpu", kind=dict) -> dict:
    """A detector's output for an image, with masks that are not encoded."""
    torch.manual_seed(0)
    found = {
        "bboxes": torch.rand(number, 4, device=device),
        "scores": torch.rand(number, device=device),
        "labels": torch.randint(3, (number,), device=device),
        "masks": torch.rand(number, *SIZE, device=device) > 0.5,
        "mask_scores": torch.rand(number, device=device),
    }
    return {"img_id": 7, "ori_shape": SIZE, "pred_instances": kind(**found)}


def kept(each: dict, kind=FastCocoMetric) -> list:
    metric = kind(metric=KINDS)
    metric.process({}, [{**each, "instances": []}])
    return metric.results


def assert_equal_results(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for (our_truth, our_found), (their_truth, their_found) in zip(ours, theirs, strict=True):
        assert our_truth == their_truth
        assert list(our_found) == list(their_found)
        assert our_found["masks"] == their_found["masks"]
        for key, value in their_found.items():
            np.testing.assert_array_equal(our_found[key], value, err_msg=key)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [dict, InstanceData])
@pytest.mark.parametrize("number", [5, 1, 0])
def test_each_image_is_kept_as_mmdetection_keeps_it(number, kind, device):
    each = sample(number, device, kind)
    assert_equal_results(kept(each), kept(each, CocoMetric))
    assert len(kept(each)[0][1]["masks"]) == number


def test_masks_that_are_encoded_stay_so_and_boxes_may_be_alone():
    encoded = sample()
    masks = np.asfortranarray(encoded["pred_instances"]["masks"].numpy().transpose(1, 2, 0))
    encoded["pred_instances"]["masks"] = mask_utils.encode(masks.astype(np.uint8))
    assert_equal_results(kept(encoded), kept(sample(), CocoMetric))
    alone = sample()
    alone["pred_instances"].pop("masks")
    assert "masks" not in kept(alone)[0][1]


def test_other_metrics_still_find_masks_in_the_sample():
    each = sample()
    before = copy.deepcopy(each)
    kept(each)
    assert torch.equal(each["pred_instances"]["masks"], before["pred_instances"]["masks"])
    assert each.keys() == before.keys()


@pytest.mark.slow
@pytest.mark.parametrize("data", [0], indirect=True)
def test_two_processes_share_the_images(data, tmp_path):
    path, results = data
    results = results[:11]  # an odd number: one image is given twice, and must count once
    (tmp_path / "results.pkl").write_bytes(pickle.dumps(results))
    in_two_processes(evaluate_a_half, tmp_path, str(path), CLASSES, len(results))
    theirs = processed(CocoMetric, results, str(path), CLASSES).evaluate(len(results))
    assert 0 < theirs["coco/segm_mAP"] < 1
    for rank in range(2):
        assert_same(pickle.loads((tmp_path / f"numbers{rank}.pkl").read_bytes()), theirs)
