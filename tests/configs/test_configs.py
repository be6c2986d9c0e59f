"""The configs reproduce the published recipes to the number, build, train a step and predict."""

import math
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, soft_nms
from mmdet.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmconvnext.data import CLASSES
from mmconvnext.engine.config import drop_pretrained, replace_types
from mmconvnext.variants import VARIANTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HOST = "https://dl.fbaipublicfiles.com/convnext/"
# The same weights at timm, by the name of the official file.
AT_TIMM = {
    "tiny_1k_224_ema": "tiny.fb_in1k",
    "small_1k_224_ema": "small.fb_in1k",
    "base_1k_224_ema": "base.fb_in1k",
    "base_22k_224": "base.fb_in22k",
    "large_22k_224": "large.fb_in22k",
    "xlarge_22k_224": "xlarge.fb_in22k",
}
# FACTS section 3: lr, decay rate, layers, drop path, mixed precision, arch, weights.
RECIPES = {
    "mask_rcnn_convnext_t_coco": (1e-4, 0.95, 6, 0.4, True, "tiny", "tiny_1k_224_ema"),
    "cascade_convnext_t_coco": (2e-4, 0.7, 6, 0.4, True, "tiny", "tiny_1k_224_ema"),
    "cascade_convnext_s_coco": (2e-4, 0.7, 12, 0.6, True, "small", "small_1k_224_ema"),
    "cascade_convnext_b_coco": (2e-4, 0.8, 12, 0.7, True, "base", "base_1k_224_ema"),
    "cascade_convnext_b_in22k_coco": (1e-4, 0.8, 12, 0.6, True, "base", "base_22k_224"),
    "cascade_convnext_l_in22k_coco": (1e-4, 0.7, 12, 0.7, False, "large", "large_22k_224"),
    "cascade_convnext_xl_in22k_coco": (1e-4, 0.7, 12, 0.8, False, "xlarge", "xlarge_22k_224"),
}
# Their weights; the recipe is that of Mask R-CNN T.
OTHERS = {
    "mask_rcnn_convnext_t_1x_coco": "tiny_1k_224_ema",
    "mask_rcnn_convnext_s_coco": "small_1k_224_ema",
    "mask_rcnn_convnext_b_coco": "base_1k_224_ema",
}
# Variant and drop path, of FACTS section 2's {0.2 ... 0.5}.
V2 = {
    "mask_rcnn_convnextv2_atto_coco": ("atto", 0.2),
    "mask_rcnn_convnextv2_femto_coco": ("femto", 0.2),
    "mask_rcnn_convnextv2_pico_coco": ("pico", 0.2),
    "mask_rcnn_convnextv2_nano_coco": ("nano", 0.2),
    "mask_rcnn_convnextv2_t_coco": ("tiny", 0.3),
    "mask_rcnn_convnextv2_b_coco": ("base", 0.4),
    "mask_rcnn_convnextv2_l_coco": ("large", 0.5),
    "mask_rcnn_convnextv2_h_coco": ("huge", 0.5),
}
# Which config each takes its recipe from.
DINOV3 = {
    "cascade_convnext_t_dinov3_coco": "cascade_convnext_t_coco",
    "cascade_convnext_s_dinov3_coco": "cascade_convnext_s_coco",
    "cascade_convnext_b_dinov3_coco": "cascade_convnext_b_coco",
    "cascade_convnext_l_dinov3_coco": "cascade_convnext_l_in22k_coco",
}
PUBLISHED_V2 = {f"mask_rcnn_convnextv2_{size}_coco" for size in "blh"}
SHAPES = ["mask_rcnn_convnext_shapes", "cascade_convnext_shapes"]
LOAD_IMAGE = {"type": "LoadImageFromFile"}
LOAD_ANNOTATIONS = {"type": "FastLoadAnnotations", "with_bbox": True, "with_mask": True}
MULTI_SCALE = [*RECIPES, *OTHERS, *DINOV3]
COCO = [*MULTI_SCALE, *V2]


@cache
def parse(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


def load(name: str) -> Config:
    return deepcopy(parse(name))


def test_every_config_is_tested():
    tested = {*COCO, *SHAPES, "cascade_convnext_overfit"}
    assert {path.stem for path in CONFIGS.glob("*.py")} == tested


@pytest.mark.parametrize("name", [*RECIPES, *V2])
def test_recipes_are_the_published_ones(name):
    cfg = load(name)
    if name in V2:
        arch, drop_path = V2[name]
        lr, rate, amp = 1e-4, 0.95, True
        num_layers = 3 + math.ceil(VARIANTS[arch].depths[2] / 3)  # FACTS section 4
    else:
        lr, rate, num_layers, drop_path, amp, arch, _ = RECIPES[name]
    assert cfg.optim_wrapper == {
        "type": "AmpOptimWrapper" if amp else "OptimWrapper",
        "constructor": "LayerDecayOptimWrapperConstructor",
        "paramwise_cfg": {"decay_rate": rate, "decay_type": "layer_wise", "num_layers": "auto"},
        "optimizer": {"type": "AdamW", "lr": lr, "betas": (0.9, 0.999), "weight_decay": 0.05},
    }
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (arch, drop_path)
    assert backbone.get("use_grn", False) == (name in V2)
    assert backbone.layer_scale_init_value == (0.0 if name in V2 else 1.0)
    with torch.device("meta"):
        assert MODELS.build({**backbone, "init_cfg": None}).num_layers == num_layers


@pytest.mark.parametrize("name", [n for n in COCO if n not in DINOV3])
def test_weights_are_the_official_ones_or_the_same_at_timm(name):
    if name in V2:
        arch = V2[name][0]
        official = f"convnextv2/pt_only/convnextv2_{arch}_1k_224_fcmae.pt"
        at_timm = f"convnextv2_{arch}.fcmae"
    else:
        weights = OTHERS.get(name) or RECIPES[name][-1]
        official, at_timm = f"convnext_{weights}.pth", f"convnext_{AT_TIMM[weights]}"
    checkpoint = load(name).model.backbone.init_cfg.checkpoint
    assert checkpoint == [HOST + official, f"timm://{at_timm}"]


@pytest.mark.parametrize("name", COCO)
def test_timm_has_the_weights_that_configs_name(name):
    timm_models = pytest.importorskip("timm.models")
    checkpoints = load(name).model.backbone.init_cfg.checkpoint
    (at_timm,) = (c.removeprefix("timm://") for c in checkpoints if c.startswith("timm://"))
    known = timm_models.get_pretrained_cfg(at_timm, allow_unregistered=False)
    assert name in DINOV3 or known.url == checkpoints[0]


@pytest.mark.parametrize("name", DINOV3)
def test_dinov3_changes_nothing_but_the_weights(name):
    cfg, base = load(name).to_dict(), load(DINOV3[name]).to_dict()
    init_cfg = cfg["model"]["backbone"]["init_cfg"]
    arch = cfg["model"]["backbone"]["arch"]
    assert init_cfg.pop("checkpoint") == [
        f"timm://convnext_{arch}.dinov3_lvd1689m",
        f"hf://facebook/dinov3-convnext-{arch}-pretrain-lvd1689m",
    ]
    del base["model"]["backbone"]["init_cfg"]["checkpoint"]
    assert cfg == base
    assert cfg["model"]["backbone"]["layer_scale_init_value"] == 1.0


@pytest.mark.parametrize("name", COCO)
def test_what_nobody_has_published_says_so(name):
    text = (CONFIGS / f"{name}.py").read_text()
    published = name in RECIPES or name in PUBLISHED_V2
    assert text.startswith("# Published: ") == published
    assert ("nobody has published a result" in text) != published


@pytest.mark.parametrize("name", COCO)
def test_the_schedule_and_the_batch_that_it_is_for(name):
    cfg = load(name)
    epochs, milestones = (12, [8, 11]) if "1x" in name else (36, [27, 33])
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.by_epoch) == ("LinearLR", 0.001, False)
    assert (warm_up.begin, warm_up.end) == (0, 1000)
    assert (steps.milestones, steps.gamma) == (milestones, 0.1)
    assert (steps.end, steps.by_epoch) == (epochs, True)
    batch_size = 4 if name in V2 else 2
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": batch_size * 8}
    assert cfg.train_dataloader.batch_size == batch_size


@pytest.mark.parametrize("name", MULTI_SCALE)
def test_multi_scale_training_with_crops(name):
    cfg = load(name)
    scales = [(s, 1333) for s in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    resize = {"type": "RandomChoiceResize", "scales": scales, "keep_ratio": True}
    crop = {"type": "RandomCrop", "crop_type": "absolute_range", "crop_size": (384, 600)}
    before_crop = {**resize, "scales": [(400, 1333), (500, 1333), (600, 1333)]}
    cropped = [before_crop, {**crop, "allow_negative_crop": True}, resize]
    assert cfg.train_pipeline == [
        LOAD_IMAGE,
        LOAD_ANNOTATIONS,
        {"type": "FastRandomFlip", "prob": 0.5},
        {"type": "RandomChoice", "transforms": [[resize], cropped]},
        {"type": "FastPackDetInputs"},
    ]
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline


@pytest.mark.parametrize("name", V2)
def test_large_scale_jitter(name):
    cfg = load(name)
    size = (1024, 1024)
    assert cfg.train_dataloader.dataset.pipeline == [
        LOAD_IMAGE,
        LOAD_ANNOTATIONS,
        {"type": "RandomResize", "scale": size, "ratio_range": (0.1, 2.0), "keep_ratio": True},
        {
            "type": "RandomCrop",
            "crop_type": "absolute",
            "crop_size": size,
            "recompute_bbox": True,
            "allow_negative_crop": True,
        },
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2)},
        {"type": "FastRandomFlip", "prob": 0.5},
        {"type": "FastPackDetInputs"},
    ]
    assert cfg.train_dataloader.batch_sampler is None
    (pad,) = cfg.model.data_preprocessor.batch_augments
    assert pad == {"type": "BatchFixedSizePad", "size": size, "pad_mask": True}


def test_jittered_images_keep_their_objects_and_are_padded_to_one_size(tmp_path):
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, np.full((240, 320, 3), 100, np.uint8))
    instances = [
        {"bbox": [x1, y1, x2, y2], "mask": [[x1, y1, x2, y1, x2, y2, x1, y2]], "ignore_flag": 0}
        | {"bbox_label": label}
        for label, (x1, y1, x2, y2) in enumerate([(40, 60, 140, 120), (290, 210, 310, 230)])
    ]
    info = {"img_path": path, "img_id": 0, "height": 240, "width": 320, "instances": instances}
    cfg = load("mask_rcnn_convnextv2_t_coco")
    pipeline = TRANSFORMS.build({"type": "Compose", "transforms": cfg.train_pipeline})
    np.random.seed(0)
    packed = [p for p in (pipeline(deepcopy(info)) for _ in range(24)) if p is not None]
    sides = [max(p["inputs"].shape[1:]) for p in packed]
    assert min(sides) < 512 < max(sides) == 1024
    objects = [p["data_samples"].gt_instances for p in packed]
    assert {len(o) for o in objects} >= {1, 2}, "some lost an object to the crop"
    for o in objects:
        extents = [np.concatenate(mask).reshape(-1, 2) for mask in o.masks.masks]
        extents = [[*points.min(0), *points.max(0)] for points in extents]
        np.testing.assert_allclose(o.bboxes.tensor, np.reshape(extents, (-1, 4)), rtol=1e-5)

    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    small = [p for p, side in zip(packed, sides, strict=True) if side < 512][:2]
    batch = {key: [p[key] for p in small] for key in ("inputs", "data_samples")}
    assert max(preprocessor(deepcopy(batch), training=False)["inputs"].shape[2:]) <= 512
    trained = preprocessor(batch, training=True)
    assert trained["inputs"].shape == (2, 3, 1024, 1024)
    for sample in trained["data_samples"]:
        assert sample.batch_input_shape == sample.pad_shape == (1024, 1024)
        assert sample.gt_instances.masks.height == sample.gt_instances.masks.width == 1024


@pytest.mark.parametrize("name", COCO)
def test_images_are_prepared_as_the_weights_want_them(name):
    cfg = load(name)
    assert cfg.test_pipeline[1].scale == (1333, 800)
    assert cfg.test_dataloader.dataset.pipeline == cfg.test_pipeline
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb
    assert preprocessor.pad_size_divisor == 32


@pytest.mark.parametrize("name", COCO)
def test_necks_and_testing(name):
    cfg = load(name)
    assert tuple(cfg.model.neck.in_channels) == VARIANTS[cfg.model.backbone.arch].widths
    rcnn = cfg.model.test_cfg.rcnn
    assert (rcnn.score_thr, rcnn.nms.iou_threshold, rcnn.max_per_img) == (0.05, 0.5, 100)
    assert rcnn.nms.type == ("soft_nms" if name in V2 else "nms")
    assert cfg.test_evaluator.metric == ["bbox", "segm"]


@pytest.mark.parametrize("name", [n for n in COCO if n.startswith("cascade")])
def test_cascade_heads(name):
    model = load(name).model
    assert model.roi_head.stage_loss_weights == [1, 0.5, 0.25]
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert [h.bbox_coder.target_stds for h in model.roi_head.bbox_head] == stds
    assert [r.assigner.pos_iou_thr for r in model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
    for head in model.roi_head.bbox_head:
        assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
        assert (head.conv_out_channels, head.fc_out_channels) == (256, 1024)
        assert head.norm_cfg.type == "SyncBN"
        assert not head.reg_class_agnostic
        assert head.reg_decoded_bbox
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ("GIoULoss", 10.0)


@pytest.mark.parametrize("name", ["mask_rcnn_convnextv2_t_coco", "mask_rcnn_convnext_t_coco"])
def test_soft_nms_is_what_detectors_of_v2_predict_with(name, monkeypatch):
    calls = []

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return soft_nms(*args, **kwargs)

    monkeypatch.setitem(batched_nms.__globals__, "soft_nms", spy)
    cfg = load(name)
    cfg.model.test_cfg.rcnn.score_thr = 0.0  # of 81 classes none is likely before the training
    model = build_small(cfg).eval()
    with torch.no_grad():
        model.test_step(demo_mm_inputs(1, [[3, 64, 64]], num_classes=80, with_mask=True))
    settings = {"iou_threshold": 0.5, "method": "linear", "sigma": 0.5, "min_score": 1e-3}
    assert calls == ([settings] if name in V2 else [])


@pytest.mark.parametrize("name", SHAPES)
def test_demo_configs_know_the_classes_of_shapes(name):
    assert tuple(load(name).train_dataloader.dataset.metainfo.classes) == CLASSES


# One of each data set; the hook is said once, in _base_/default_runtime.py.
@pytest.mark.parametrize("name", ["cascade_convnext_t_coco", *SHAPES, "cascade_convnext_overfit"])
def test_heads_of_another_number_of_classes_are_refused(name):
    cfg = load(name)
    (hook,) = map(HOOKS.build, cfg.custom_hooks)
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, "lazy_init": True})
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(model=model, train_dataloader=loader, val_dataloader=loader)
    hook.before_train_epoch(runner)
    hook.before_val_epoch(runner)
    next(m for m in model.roi_head.modules() if hasattr(m, "num_classes")).num_classes += 1
    with pytest.raises(AssertionError, match="num_classes"):
        hook.before_train_epoch(runner)


def build_small(cfg: Config) -> torch.nn.Module:
    """At one block a stage, an eighth of the width and few RoIs; all else is as the config says."""
    drop_pretrained(cfg)
    replace_types(cfg, ["SyncBN"], "BN")
    # another test pads images to their full size
    cfg.model.data_preprocessor.batch_augments = None
    if isinstance(cfg.model.backbone.get("arch"), str):
        widths = tuple(w // 8 for w in cfg.model.neck.in_channels)
        cfg.model.backbone.arch = {"depths": (1, 1, 4, 1), "widths": widths}
        cfg.model.neck.in_channels = list(widths)
    for heads in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        for head in heads if isinstance(heads, list) else [heads]:
            channels = {key for key in head if key in ("fc_out_channels", "conv_out_channels")}
            head.update({key: head[key] // 8 for key in channels})
    rcnn = cfg.model.train_cfg.rcnn
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 16
    cfg.model.test_cfg.rpn.max_per_img = 20
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


# Without their weights the ones of DINOv3 are their bases.
@pytest.mark.parametrize("name", [n for n in [*COCO, *SHAPES] if n not in DINOV3])
def test_builds_trains_a_step_and_predicts(name):
    cfg = load(name)
    model = build_small(cfg)
    num_classes = 80 if name in COCO else len(CLASSES)
    data = demo_mm_inputs(
        2, [[3, 96, 128], [3, 128, 96]], num_classes=num_classes, with_mask=True, num_items=[2, 0]
    )
    # float32, as tools/train.py does without a GPU
    optim_wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"})
    model.train()
    before = model.backbone.stages[0][0].pwconv1.weight.clone()
    losses = model.train_step(data, optim_wrapper)
    assert all(torch.isfinite(v).all() for v in losses.values())
    assert {"loss_rpn_cls", "loss"} <= losses.keys()
    assert not torch.equal(before, model.backbone.stages[0][0].pwconv1.weight)

    model.eval()
    with torch.no_grad():
        results = model.test_step(data)
    assert len(results) == 2
    for result in results:
        masks, boxes = result.pred_instances.masks, result.pred_instances.bboxes
        assert masks.shape == (len(boxes), *result.ori_shape[:2])
        assert len(boxes) <= 100
