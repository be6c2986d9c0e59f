"""``--backbone``: what it changes in MMDetection's configs, and what it refuses."""

import pytest

from mmconvnext.compat.config_names import config_dir
from mmconvnext.engine import backbone_swap
from mmconvnext.engine.backbone_swap import read_choice, swap_backbone, use_backbone
from mmconvnext.engine.config import load_config
from mmconvnext.errors import ConfigError

NAMES = [
    "retinanet/retinanet_r50_fpn_1x_coco",
    "dino/dino-4scale_r50_8xb2-12e_coco",
    "rtmdet/rtmdet_l_8xb32-300e_coco",
    # of those without a config of ours
    "yolo/yolov3_d53_8xb8-ms-608-273e_coco",
    "dyhead/atss_r50_fpn_dyhead_1x_coco",
    "paa/paa_r50_fpn_1x_coco",
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco",
    "conditional_detr/conditional-detr_r50_8xb2-50e_coco",
]


def without_scope(value):
    """A config without ``_scope_``, which MMEngine adds to what a base ``mmdet::`` has."""
    if isinstance(value, dict):
        return {k: without_scope(v) for k, v in value.items() if k != "_scope_"}
    return [without_scope(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", NAMES)
def test_the_written_config_does_the_same_in_15_lines(name, tmp_path):
    base = f"mmdet::{name}.py"
    cfg = load_config(base)
    text = use_backbone(cfg, base, "convnext-t")
    assert len(text.splitlines()) <= 15
    path = tmp_path / "swapped.py"
    path.write_text(text)
    assert without_scope(load_config(str(path)).to_dict()) == without_scope(cfg.to_dict())


def test_a_neck_that_starts_at_level_1():
    delta = swap_backbone(load_config(f"mmdet::{NAMES[0]}.py"), "convnext-b")
    assert delta["model"]["backbone"]["out_indices"] == (1, 2, 3)
    assert delta["model"]["neck"] == {"in_channels": [256, 512, 1024], "start_level": 0}
    assert "data_preprocessor" not in delta["model"]
    assert delta["optim_wrapper"]["optimizer"]["type"] == "AdamW"


def test_what_the_config_says_of_other_parameters_is_kept():
    name = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
    cfg = load_config(name)
    clip = cfg.optim_wrapper.clip_grad
    use_backbone(cfg, name, "convnext-t")
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys == {"sampling_offsets": {"lr_mult": 0.1}, "reference_points": {"lr_mult": 0.1}}
    assert cfg.optim_wrapper.clip_grad == clip
    assert cfg.model.data_preprocessor.pad_size_divisor == 32


def test_bgr_becomes_rgb_and_bypass_duplicate_goes():
    name = f"mmdet::{NAMES[2]}.py"
    cfg = load_config(name)
    use_backbone(cfg, name, "convnext-t")
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.model.data_preprocessor.bgr_to_rgb is True
    assert cfg.optim_wrapper.paramwise_cfg == {"decay_rate": 0.7}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ssd/ssd300_coco", "levels"),
        ("detectors/detectors_htc-r50_1x_coco", "RFP"),
        ("faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco", "in_channels"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=reason):
        swap_backbone(load_config(f"mmdet::{name}.py"), "convnext-t")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.backbone": None}, "RetinaNet has no model.backbone of its own"),
        ({"model.neck.end_level": 2}, "the neck ends at level 2"),
        ({"model.neck.in_channels": [8] * 5}, "the neck takes 5 levels, ConvNeXt has 4"),
        ({"model.backbone.out_indices": (0, 1, 2)}, "levels are not the last"),
        ({"model.backbone.dilations": (1, 1, 1, 2)}, "its backbone is dilated"),
        ({"model.backbone.strides": (1, 2, 2, 1)}, "its backbone is dilated"),
    ],
)
def test_other_levels_are_refused(changes, reason):
    cfg = load_config(f"mmdet::{NAMES[0]}.py")
    cfg.merge_from_dict(changes)
    with pytest.raises(ConfigError, match=f"--backbone convnext-t cannot be put into .*{reason}"):
        swap_backbone(cfg, "convnext-t")


def test_v2_has_response_normalisation_and_a_single_level_one_width():
    cfg = load_config("mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py")
    delta = swap_backbone(cfg, "convnext-v2-t")["model"]
    assert delta["backbone"]["use_grn"] is True
    assert delta["backbone"]["layer_scale_init_value"] == 0
    assert delta["backbone"]["out_indices"] == (3,)
    assert delta["neck"] == {"in_channels": 768}


def test_a_config_of_many_lines_is_refused(monkeypatch):
    name = f"mmdet::{NAMES[0]}.py"
    monkeypatch.setattr(backbone_swap, "MAX_LINES", 3)
    with pytest.raises(ConfigError, match="takes a config of more than 3 lines:\n_base_"):
        use_backbone(load_config(name), name, "convnext-t")


def test_keys_that_are_no_names_are_written_in_quotes():
    delta = {"model": {"a.b": [1, "x"], "c": {"d": None}}, "other": {"e": 2.5}}
    text = backbone_swap.format_delta("base.py", delta)
    found = {}
    exec(text, {}, found)
    assert found == {"_base_": "base.py", **delta}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((f"convnext-{k}", f"cascade_convnext_{k}_coco") for k in "tsb"),
        ("convnext-b-22k", "cascade_convnext_b_in22k_coco"),
        ("convnext-l", "cascade_convnext_l_in22k_coco"),
        ("convnext-xl", "cascade_convnext_xl_in22k_coco"),
        ("convnext-v2-atto", "mask_rcnn_convnextv2_atto_coco"),
        ("convnext-v2-h", "mask_rcnn_convnextv2_h_coco"),
        ("convnext-dinov3-s", "cascade_convnext_s_dinov3_coco"),
    ],
)
def test_weights_are_those_of_the_own_configs(name, config):
    own = load_config(str(config_dir() / f"{config}.py")).model.backbone
    choice = read_choice(name)
    assert choice.arch == own.arch
    assert set(choice.checkpoint) == set(own.init_cfg.checkpoint)


@pytest.mark.parametrize("name", ["convnext-q", "v2-xl", "dinov3-t-22k", "resnet50"])
def test_unknown_backbones_are_refused(name):
    with pytest.raises(ConfigError, match="choose one of"):
        read_choice(name)
