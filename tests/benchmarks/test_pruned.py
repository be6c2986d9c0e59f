"""Trained detectors beside each other: what is timed and counted, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from benchmarks import pruned
from benchmarks.worker import BenchmarkError
from mmconvnext.data import CLASSES
from mmconvnext.engine.config import load_config
from tests.benchmarks.helpers import arguments, cells, use_this_process


@pytest.fixture
def runs(tmp_path):
    """Folders of an unpruned and of a pruned detector, and a picture."""
    init_default_scope("mmdet")
    arch = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32)}
    for name, more in (("full", {}), ("less", {"hidden": ((8,), (8,), (8,), (8,))})):
        cfg = load_config("mask_rcnn_convnext_shapes.py")
        cfg.model.backbone.arch, cfg.model.neck.in_channels = {**arch, **more}, [8, 16, 24, 32]
        (tmp_path / name).mkdir()
        cfg.dump(tmp_path / name / "tiny.py")
        content = {"state_dict": MODELS.build(cfg.model).state_dict()}
        content["meta"] = {"dataset_meta": {"classes": CLASSES}}
        torch.save(content, tmp_path / name / "pruned.pth")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((96, 96, 3), 100, np.uint8))
    return tmp_path


def test_both_are_timed_as_wholes_and_as_backbones(monkeypatch, runs):
    use_this_process(monkeypatch)
    folders = [runs / "full", runs / "less"]
    args = arguments("pruned", *folders, "--pictures", runs / "a.png")
    report = pruned.compare(args)
    whole, backbone = report.tables
    assert [whole.ours, backbone.ours] == [str(folders[0])] * 2
    for results in report.tables:
        full, less = (results.facts[str(folder)] for folder in folders)
        assert full["images"] == less["images"] == 1
        assert full["multiply_adds"] > less["multiply_adds"]
        assert full["parameters"] > less["parameters"]
    assert (
        backbone.facts[str(folders[0])]["parameters"] < whole.facts[str(folders[0])]["parameters"]
    )
    assert "multiply-adds, G" in report.text()
    assert len(cells(report.text(), str(folders[1]))) > 5


def test_one_folder_is_not_enough(runs):
    with pytest.raises(BenchmarkError, match="two different folders"):
        pruned.compare(arguments("pruned", runs / "full", runs / "full"))
