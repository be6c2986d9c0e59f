"""The graph of a detector finds what MMDetection does, before it is exported."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS

from mmconvnext.deploy.graph import FILLING, TwoStageGraph, detections
from mmconvnext.deploy.settings import check_exportable
from mmconvnext.errors import ConfigError
from mmconvnext.inference.detector import Detector
from tests.deploy.conftest import CASCADE, MASK, config

RESIZE = {"type": "Resize", "scale": (180, 120), "keep_ratio": True}


def graph_of(checkpoints, name: str, pasted: bool = False, **changes):
    """A detector by MMDetection, and its graph."""
    cfg = config(name, **changes)
    detector = Detector(cfg, checkpoints[name], batch=1)
    resize = check_exportable(detector.model, cfg)
    return detector, TwoStageGraph(detector.model, resize, pasted).eval()


def run(graph, *paths: str) -> list[np.ndarray]:
    pixels = np.stack([cv2.imread(path)[..., ::-1] for path in paths])
    with torch.no_grad():
        return [output.numpy() for output in graph(torch.from_numpy(pixels))]


def test_fewer_candidates_than_detections_are_all_there():
    """As in a detector with few proposals, one class and the default ``max_per_img``."""
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]])
    scores, labels = torch.tensor([[0.5, 0.9, 0.3]]), torch.zeros(1, 3, dtype=torch.long)
    found, best, _ = detections(boxes, scores, labels, threshold=0.5, most=100)
    assert best.shape == (1, 3 + FILLING)
    assert best[0].tolist() == pytest.approx([0.9, 0.3, -1, -1, -1])
    assert found[0, :2].tolist() == boxes[0, 1:].tolist()


@pytest.mark.parametrize("resized", [False, True], ids=["as it is", "resized"])
@pytest.mark.parametrize("name", [MASK, CASCADE])
def test_it_finds_what_mmdetection_does(checkpoints, pictures, name, resized):
    detector, graph = graph_of(checkpoints, name, pasted=True, resize=RESIZE if resized else None)
    found = 0
    for path in pictures:
        expected = detector(path)
        boxes, scores, labels, masks = (output[0] for output in run(graph, path))
        kept = scores >= 0
        found += kept.sum()
        assert len(expected) == kept.sum()
        np.testing.assert_allclose(scores[kept], expected.scores, atol=1e-4)
        nearest = [np.abs(boxes[kept] - box).max(1).argmin() for box in expected.boxes]
        assert len({*nearest}) == len(nearest)  # order is that of scores, but for ties
        np.testing.assert_array_equal(labels[nearest], expected.labels)
        np.testing.assert_allclose(boxes[nearest], expected.boxes, atol=1e-2)
        different = masks[nearest] != expected.masks
        assert different.sum() <= 1e-3 * max(expected.masks.sum(), 1)
        # what fills up says so
        assert not boxes[~kept].any()
        assert (labels[~kept] == -1).all()
        assert not masks[~kept].any()
    assert found > 50


def test_pictures_of_a_batch_do_not_change_each_other(checkpoints, pictures):
    _, graph = graph_of(checkpoints, MASK)
    noise = next(path for path in pictures if "150x150" in path)
    alone = run(graph, noise)
    for together in run(graph, noise, noise, noise), run(graph, noise):
        for one, outputs in zip(alone, together, strict=True):
            for each in outputs:
                np.testing.assert_allclose(each, one[0], atol=1e-2)


def test_a_detector_without_masks_has_three_outputs(checkpoints, pictures):
    torch.manual_seed(0)
    cfg = config(MASK, **{"model.type": "FasterRCNN"})
    for key in ("mask_head", "mask_roi_extractor"):
        del cfg.model.roi_head[key]
    detector = MODELS.build(cfg.model).eval()
    outputs = run(TwoStageGraph(detector, check_exportable(detector, cfg)), pictures[0])
    assert [output.shape for output in outputs] == [(1, 30, 4), (1, 30), (1, 30)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.test_cfg.rcnn.nms.type": "soft_nms"}, "test_cfg.rcnn.nms={'type': 'soft_nms'"),
        ({"model.test_cfg.rpn.nms.split_thr": 9}, "test_cfg.rpn.nms={"),
        ({"resize": {"type": "Albu"}}, "the test pipeline's Albu: the graph does not do that"),
        (
            {"resize": {"type": "Resize", "scale_factor": 2.0, "interpolation": "nearest"}},
            "the test pipeline's Resize(interpolation='nearest')",
        ),
    ],
)
def test_settings_that_the_graph_lacks_are_refused_by_name(checkpoints, changes, message):
    detector = Detector(config(MASK), checkpoints[MASK]).model
    cfg = config(MASK, **changes)
    detector.rpn_head.test_cfg = cfg.model.test_cfg.rpn
    detector.roi_head.test_cfg = cfg.model.test_cfg.rcnn
    with pytest.raises(ConfigError) as refused:
        check_exportable(detector, cfg)
    assert message in str(refused.value)


def test_heads_that_the_graph_lacks_are_refused_by_name(checkpoints):
    detector = Detector(config(MASK), checkpoints[MASK]).model
    detector.roi_head.bbox_head = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"roi_head\.bbox_head=Linear"):
        check_exportable(detector, config(MASK))


def test_boxes_that_are_not_clipped_and_other_pooling_are_refused(checkpoints):
    detector = Detector(config(MASK), checkpoints[MASK]).model
    detector.rpn_head.bbox_coder.clip_border = False
    detector.roi_head.mask_roi_extractor.roi_layers[1].pool_mode = "max"
    with pytest.raises(ConfigError) as refused:
        check_exportable(detector, config(MASK))
    assert "rpn_head.bbox_coder=DeltaXYWHBBoxCoder (clip_border" in str(refused.value)
    assert "roi_layer.pool_mode other than avg" in str(refused.value)


def test_activations_of_their_own_and_shared_heads_are_refused(checkpoints):
    detector = Detector(config(MASK), checkpoints[MASK]).model
    detector.roi_head.bbox_head.loss_cls.custom_activation = True
    detector.roi_head.shared_head = torch.nn.Identity()
    detector.roi_head.share_roi_extractor = True
    with pytest.raises(ConfigError) as refused:
        check_exportable(detector, config(MASK))
    assert "roi_head.bbox_head with an activation of its own; roi_head.shared_head" in str(
        refused.value
    )


def test_other_detectors_are_refused_by_their_type():
    with pytest.raises(
        ConfigError, match="cannot export a Linear: only FasterRCNN, MaskRCNN, Casca"
    ):
        check_exportable(torch.nn.Linear(1, 1), config(MASK))
