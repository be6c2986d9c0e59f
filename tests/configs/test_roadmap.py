"""The configs of the paper's walk: what they cost, and that the tool that writes them made them."""

import runpy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.config import drop_pretrained
from mmconvnext.engine.device import adapt_to_device
from mmconvnext.models.roadmap import STEPS, WALKS

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "configs" / "roadmap"
# FACTS section 9: G multiply-adds at 800 x 1280 of Mask R-CNN and Cascade Mask R-CNN.
COSTS = {
    "resnet": (259.3, 737.6),
    "stage_ratio": (268.2, 746.5),
    "patchify": (266.0, 744.3),
    "depthwise": (223.8, 702.1),
    "width": (287.3, 765.5),
    "inverted_bottleneck": (265.8, 744.0),
    "move_up": (253.9, 732.2),
    "kernel_7": (255.6, 733.8),
    "separate_downsampling": (261.9, 740.2),
}


def load(detector: str, regime: str, step: str) -> Config:
    return Config.fromfile(FOLDER / f"{detector}_{regime}_{STEPS.index(step):02}_{step}.py")


def test_the_tool_writes_what_is_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    runpy.run_path(str(REPO / "tools" / "make_roadmap_configs.py"))["main"](tmp_path / "roadmap")
    written = {path.name: path.read_text() for path in (tmp_path / "roadmap").iterdir()}
    assert written == {path.name: path.read_text() for path in FOLDER.glob("*.py")}
    assert len(written) == 2 * 2 * len(STEPS)


@pytest.mark.parametrize("step", COSTS)
def test_detectors_cost_what_was_counted(step):
    for detector, expected in zip(("mask_rcnn", "cascade"), COSTS[step], strict=True):
        cost = count_config(load(detector, "tiny", step))
        assert cost.flops / 1e9 == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("regime", WALKS)
@pytest.mark.parametrize("step", STEPS)
def test_every_config_builds(step, regime):
    for detector in ("mask_rcnn", "cascade"):
        cfg = load(detector, regime, step)
        assert (cfg.model.backbone.step, cfg.model.backbone.regime) == (step, regime)
        drop_pretrained(cfg)
        with torch.device("meta"):
            model = MODELS.build(cfg.model)
        assert sum(p.numel() for p in model.parameters()) > 30e6


def test_one_process_on_the_cpu_has_statistics_of_its_own():
    cfg = load("mask_rcnn", "tiny", "patchify")
    assert cfg.sync_bn == "torch"
    cfg.launcher = "pytorch"
    assert any("sync_bn" in note for note in adapt_to_device(cfg))
    assert "sync_bn" not in cfg
