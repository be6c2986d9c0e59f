import itertools

import numpy as np
import pytest
import torch
from mmcv.ops import bbox_overlaps, nms, nms_match, soft_nms
from torch import Tensor

from tests.compat.ops import references
from tests.compat.which_mmcv import parameter_of_stand_in

ONLY_FLOAT32 = "its CPU kernels take float32 only"
OTHER_DTYPES = [
    parameter_of_stand_in(dtype, ONLY_FLOAT32)
    for dtype in (torch.float64, torch.float16, torch.bfloat16)
]


def crowd(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes that overlap a lot, and scores without two equal ones."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 40
    sizes = torch.rand(count, 2, generator=generator) * 30 + 2
    scores = (torch.randperm(count, generator=generator) + 0.5) / count
    return torch.cat([corners, corners + sizes], 1), scores


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_nms_equals_mmcvs_loop(threshold, offset):
    boxes, scores = crowd()
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == references.nms(boxes.numpy(), scores.numpy(), threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_an_overlap_of_just_the_threshold_is_kept():
    """0.6 is larger in float32: compared in double precision, the second box would go."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.59)[1].tolist() == [0]


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("case", ["plain", "equal scores", "without area"])
def test_soft_nms_equals_mmcvs_loop(method, offset, min_score, case):
    boxes, scores = crowd(40)
    if case == "equal scores":
        scores = (scores * 3).ceil() / 4
    elif case == "without area":
        boxes[::2, 2:] = boxes[::2, :2]  # points
        boxes[::4] = boxes[0]  # equal ones, so that the overlap is 0 / 0
    arguments = (0.3, 0.5, min_score, method, offset)
    dets, kept = soft_nms(boxes, scores, *arguments)
    expected, order = references.soft_nms(boxes.numpy(), scores.numpy(), *arguments)
    assert kept.tolist() == order
    np.testing.assert_allclose(dets.numpy(), expected, rtol=1e-5)
    assert len(order) < 40 or min_score < 0.5


def test_soft_nms_lowers_a_score_from_just_the_threshold_on():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    dets, _ = soft_nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.4]))


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
@pytest.mark.parametrize("function", [nms, soft_nms])
def test_other_precisions_keep_what_float32_keeps(function, dtype):
    boxes, scores = (t.to(dtype) for t in crowd(30))
    dets, kept = function(boxes, scores, 0.3)
    expected, order = function(boxes.float(), scores.float(), 0.3)
    assert torch.equal(kept, order)
    torch.testing.assert_close(dets, expected.to(dtype))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_nms_match_equals_mmcvs_loop(threshold, kind):
    boxes, scores = crowd()
    dets = torch.cat([boxes, scores[:, None]], 1)
    groups = nms_match(dets if kind == "tensor" else dets.numpy(), threshold)
    assert [g.tolist() for g in groups] == references.nms_match(dets.numpy(), threshold)


def test_nms_match_takes_an_overlap_of_just_the_threshold():
    dets = torch.tensor([[0, 0, 10, 10, 0.9], [0, 0, 10, 5, 0.8]])
    assert [g.tolist() for g in nms_match(dets, 0.5)] == [[0, 1]]


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("aligned", [False, True])
def test_bbox_overlaps_equal_a_loop(mode, offset, aligned):
    first, second = crowd(9, seed=1)[0], crowd(9, seed=2)[0]
    ious = bbox_overlaps(first, second, mode, aligned, offset)
    pairs = zip(first, second, strict=True) if aligned else itertools.product(first, second)
    expected = [references.overlap(a.numpy(), b.numpy(), offset, mode) for a, b in pairs]
    np.testing.assert_allclose(ious.flatten().numpy(), expected, rtol=1e-5)
    assert 0 < ious.count_nonzero() < ious.numel() or aligned


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_bbox_overlaps_of_large_boxes_do_not_overflow(dtype):
    boxes = torch.tensor([[0, 0, 512, 512], [0, 256, 512, 768]], dtype=dtype)
    expected = torch.tensor([[1, 1 / 3], [1 / 3, 1]], dtype=dtype)
    torch.testing.assert_close(bbox_overlaps(boxes, boxes), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_one_box_or_none(count):
    dets = torch.tensor([[1.0, 2, 3, 4, 0.5]])[:count]
    boxes, scores = dets[:, :4], dets[:, 4]
    for function in (nms, soft_nms):
        found, kept = function(boxes, scores, 0.5)
        assert torch.equal(found, dets)
        assert torch.equal(kept, torch.arange(count))
    assert [group.tolist() for group in nms_match(dets, 0.5)] == [[0]] * count
    assert bbox_overlaps(boxes, torch.zeros(3, 4)).shape == (count, 3)
