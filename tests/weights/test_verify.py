"""A config's weights are tried without a training."""

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModule

from mmconvnext.errors import CheckpointError, WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.weights.detector import verify_weights
from tests.weights.small_files import backbone_part, detector, detector_config


@MODELS.register_module()
class TwoStreams(BaseModule):
    def __init__(self, rgb, depth):
        super().__init__()
        self.rgb, self.depth = ConvNeXt(**rgb), ConvNeXt(**depth)


def config(init_cfg=None, **options) -> Config:
    cfg = detector_config(init_cfg=init_cfg)
    cfg.merge_from_dict(options)
    return cfg


def pretrained(path: str, **kwargs) -> dict[str, str]:
    return {"type": "Pretrained", "checkpoint": path, **kwargs}


def test_the_backbones_weights(write, lines):
    state = backbone_part(detector().state_dict())
    path = write({"model": state})
    assert verify_weights(config(pretrained(path))) == 1
    (line,) = lines()
    assert line.startswith("backbone: loaded ")
    assert f"(100.00% of the parameters) from {path} (official layout, V2" in line
    del state["stages.0.0.dwconv.bias"]
    with pytest.raises(WeightsError, match=r"cannot load .* Missing: stages\.0\.0\.dwconv\.bias"):
        verify_weights(config(pretrained(write(state))))


def test_no_weights(lines):
    assert verify_weights(config()) == 0
    assert lines() == []


def test_arguments_of_init_cfg_count(write, lines):
    state = backbone_part(detector().state_dict())
    path = write({"model": state, "model_ema": state})
    verify_weights(config(pretrained(path, ema=True)))
    assert "the averaged weights under 'model_ema.'" in lines()[0]
    with pytest.raises(CheckpointError, match="sha256"):
        verify_weights(config(pretrained(path, sha256="0" * 64)))


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "optimizer": {}}])
def test_load_from_stands_before_the_backbones_weights(wrap, write, tmp_path, lines, notes):
    path, none = write(wrap(detector().state_dict())), str(tmp_path / "none.pth")
    for sources in (path, [none, path]):
        assert verify_weights(config(pretrained(none), load_from=sources)) == 1
    first, second = lines()
    assert f"(100.00% of the parameters) from {path}" in first
    assert first == second
    assert sum("there is no checkpoint" in note for note in notes()) == 1


def test_a_detector_that_does_not_fit(write, notes):
    path = write(detector(num_classes=5).state_dict())
    with pytest.raises(WeightsError, match=r"\['num_classes'\] leaves them randomly init"):
        verify_weights(config(load_from=path))
    assert verify_weights(config(load_from=path, load_adapt=["num_classes"])) == 1
    assert any("as load_adapt has 'num_classes'" in note for note in notes())


def test_files_that_are_not_there(tmp_path):
    path = str(tmp_path / "none.pth")
    for cfg in (config(load_from=path), config(pretrained(path))):
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            verify_weights(cfg)


def test_every_backbone_of_a_model(write, lines):
    arch = {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}
    path = write(ConvNeXt(arch).state_dict())
    stream = {"arch": arch, "init_cfg": pretrained(path)}
    assert verify_weights(Config({"model": {"type": "TwoStreams", "rgb": stream, "depth": stream}}))
    assert len(lines()) == 2
    one = {"type": "TwoStreams", "rgb": stream, "depth": {"arch": arch}}
    assert verify_weights(Config({"model": one})) == 1
    alone = {"type": "ConvNeXt", **stream}
    assert verify_weights(Config({"model": alone})) == 1


def test_mmdetections_own_way_for_whole_detectors(write, lines):
    state = detector().state_dict()
    cfg = config()
    cfg.model.init_cfg = pretrained(write(state))
    assert verify_weights(cfg) == 1
    assert "backbone: loaded" in lines()[0]
