"""One-stage detectors as graphs, and as files, find what MMDetection does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose

from mmconvnext.deploy import exported
from mmconvnext.deploy.settings import check_exportable, graph_of
from mmconvnext.engine.config import load_config
from mmconvnext.errors import ConfigError
from mmconvnext.inference.detector import Detector
from tests.deploy.test_graph import run

CLASSES = ("disk", "triangle", "cross")
NAMES = [
    *("atss", "retinanet", "fcos", "gfl", "centernet_update", "rtmdet", "yolox"),
]


def config(name: str, **changes) -> Config:
    """A config with a tiny backbone, three classes, and pictures that are resized to less."""
    folder = name.partition("_")[0]
    cfg = load_config(f"{folder}/{name}_convnext-t_coco.py")
    arch = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32)}
    head = {"num_classes": len(CLASSES), "stacked_convs": 1}
    cfg.merge_from_dict(
        {
            "model.backbone.arch": {"_delete_": True, **arch},
            "model.backbone.init_cfg": None,
            "model.neck.in_channels": [16, 24, 32],
            "model.bbox_head": head,
            "model.test_cfg.nms_pre": 200,
            "model.test_cfg.score_thr": 0.2,
            **changes,
        }
    )
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform["type"] == "Resize":
            transform["scale"] = (160, 128) if "size" not in transform else transform["scale"]
        if "size" in transform:
            transform["size"] = (160, 160)
    return cfg


def weights(cfg: Config, path) -> None:
    """Random weights, of which many places have an object."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for name, param in model.bbox_head.named_parameters():
        if name.endswith("weight") and param.ndim == 4:
            # of YOLOX's sides the exponential is taken
            gain = 0.3 if "multi_level_conv_reg" in name else 1.5
            torch.nn.init.normal_(param, std=gain / param[0].numel() ** 0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(param, std=0.3)
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)


def detector_of(name: str, folder, **changes) -> tuple[Config, Detector]:
    cfg = config(name, **changes)
    weights(cfg, folder / f"{name}.pth")
    return cfg, Detector(cfg, folder / f"{name}.pth", batch=1)


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_mmdetection_does(name, pictures, tmp_path):
    cfg, detector = detector_of(name, tmp_path)
    graph, found = graph_of(detector.model, cfg).eval(), 0
    for path in pictures:
        expected = detector(path)
        boxes, scores, labels = (output[0] for output in run(graph, path))
        kept = scores >= 0
        found += kept.sum()
        assert len(expected) == kept.sum()
        np.testing.assert_allclose(scores[kept], expected.scores, atol=1e-4)
        for box, label in zip(expected.boxes, expected.labels, strict=True):
            nearest = np.abs(boxes[kept & (labels == label)] - box).max(1).min()
            assert nearest <= 1e-2
        assert not boxes[~kept].any()
        assert (labels[~kept] == -1).all()
    assert found > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.test_cfg.nms.type": "soft_nms"}, "test_cfg.nms={'type': 'soft_nms'"),
        ({"model.bbox_head.type": "FSAFHead"}, "bbox_head=FSAFHead"),
        ({"model.bbox_head.bbox_coder.clip_border": False}, "bbox_head.bbox_coder=DeltaXYWHBBo"),
    ],
)
def test_settings_that_the_graph_lacks_are_refused_by_name(changes, message):
    cfg = config("retinanet", **changes)
    with pytest.raises(ConfigError) as refused:
        check_exportable(MODELS.build(cfg.model), cfg)
    assert message in str(refused.value)


def test_parts_that_the_graph_lacks_are_refused_by_name():
    cfg = config("retinanet")
    detector = MODELS.build(cfg.model)
    detector.bbox_head.loss_cls.custom_cls_channels = True
    detector.bbox_head.prior_generator = SimpleNamespace()
    with pytest.raises(ConfigError) as refused:
        check_exportable(detector, cfg)
    assert "bbox_head.loss_cls=FocalLoss" in str(refused.value)
    assert "bbox_head.prior_generator=SimpleNamespace" in str(refused.value)


def test_there_are_no_masks_to_be_pasted():
    cfg = config("fcos")
    with pytest.raises(ConfigError, match="--pasted: a FCOS has no masks"):
        graph_of(MODELS.build(cfg.model), cfg, pasted=True)


def test_pictures_come_to_a_file_as_they_are(monkeypatch):
    """What the graph does itself, resizing and padding, is no part of the pipeline any more."""
    cfg = config("yolox")
    session = SimpleNamespace(meta={"classes": CLASSES})
    monkeypatch.setattr(exported, "open_session", lambda *_: session)
    assert exported.use_exported(cfg, "detector.onnx") == CLASSES
    pipeline = Compose(get_test_pipeline_cfg(cfg)[1:-2])
    assert pipeline({"img": np.zeros((33, 200, 3), np.uint8)})["img"].shape == (33, 200, 3)
