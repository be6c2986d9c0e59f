"""What does not go with the backbone is said, with the fix, and only then."""

from copy import deepcopy

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

from mmconvnext.engine.advice import explain_misfits
from mmconvnext.engine.config import load_config
from mmconvnext.engine.runner import check_fit
from mmconvnext.errors import ConfigError
from tests.configs.test_configs import CONFIGS

SMALL = {"depths": (1, 1, 1, 1), "widths": (8, 16, 32, 64)}


@pytest.fixture
def cfg() -> Config:
    cfg = load_config("mask_rcnn_convnext_t_coco")
    cfg.model.backbone.arch = SMALL
    cfg.model.neck.in_channels = [*SMALL["widths"]]
    return cfg


def misfits(cfg: Config) -> dict[str, str]:
    return explain_misfits(MODELS.build(deepcopy(cfg.model)), cfg)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_wrong_with_our_own(path):
    cfg = load_config(str(path))
    if isinstance(cfg.model.backbone.arch, str):  # what is looked at does not depend on it
        cfg.model.backbone.arch = SMALL
        cfg.model.neck.in_channels = [*SMALL["widths"]]
    assert misfits(cfg) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"model.neck.start_level": 1}, "unused", "norm0 of the .*out_indices=(1, 2, 3)"),
        ({"model.data_preprocessor.pad_size_divisor": 1}, "padding", "pad_size_divisor=32"),
        ({"model.data_preprocessor.bgr_to_rgb": False}, "channels", "know RGB.*bgr_to_rgb=True"),
        ({"model.data_preprocessor.mean": [103.5, 116.3, 123.7]}, "mean", "and it is [103.5, "),
        ({"model.data_preprocessor.std": [1.0, 1.0, 1.0]}, "std", "std=[58.395, 57.12, 57.375]"),
        (
            {"model.data_preprocessor.mean": None, "model.data_preprocessor.std": None},
            "pixels",
            "and these are not",
        ),
        ({"optim_wrapper.optimizer.type": "SGD"}, "optimizer", "have AdamW"),
        (
            {"optim_wrapper.paramwise_cfg.custom_keys": {"backbone": {"lr_mult": 0.1}}},
            "custom_keys",
            "by 0.1 and replaces",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_fix(changes, kind, says, cfg):
    cfg.merge_from_dict(changes)
    found = misfits(cfg)
    assert [*found] == [kind]
    for part in says.split(".*"):
        assert part in found[kind]


def test_pixels_matter_to_pretrained_weights_alone(cfg):
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor.bgr_to_rgb = False
    assert misfits(cfg) == {}


def test_other_backbones_are_their_own_affair():
    cfg = Config.fromfile(CONFIGS / "table3" / "cascade_resnet50_coco.py")
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor.bgr_to_rgb = False
    assert misfits(cfg) == {}


def test_an_inherited_optimizer_is_noticed_without_layer_wise_decay_too(cfg):
    cfg.optim_wrapper.pop("constructor")
    cfg.optim_wrapper.paramwise_cfg = {"custom_keys": {"backbone": {"lr_mult": 0.1}}}
    assert misfits(cfg) == {}
    cfg.optim_wrapper.optimizer.type = "SGD"
    assert [*misfits(cfg)] == ["optimizer"]


def test_it_is_an_error_where_it_was_asked_for_or_cannot_run(cfg):
    cfg.model.neck.start_level = 1
    model = MODELS.build(deepcopy(cfg.model))
    assert len(check_fit(model, cfg)) == 1
    cfg.launcher = "pytorch"
    with pytest.raises(ConfigError, match=r"t_coco\.py: the neck starts at level 1"):
        check_fit(model, cfg)
    cfg.find_unused_parameters = True
    assert len(check_fit(model, cfg)) == 1
    cfg.data_checks = {"mode": "strict"}
    with pytest.raises(ConfigError, match="norm0"):
        check_fit(model, cfg)
