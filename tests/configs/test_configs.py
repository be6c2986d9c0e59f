"""The configs reproduce the published recipes to the number, build, train a step and predict."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmconvnext.data import CLASSES
from mmconvnext.engine.config import drop_pretrained, replace_types
from mmconvnext.models import VARIANTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HOST = "https://dl.fbaipublicfiles.com/convnext/"
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
OTHERS = ["mask_rcnn_convnext_t_1x_coco", "mask_rcnn_convnext_s_coco", "mask_rcnn_convnext_b_coco"]
SHAPES = ["mask_rcnn_convnext_shapes", "cascade_convnext_shapes"]
COCO = [*RECIPES, *OTHERS]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


def test_every_config_is_tested():
    tested = {*COCO, *SHAPES, "cascade_convnext_overfit"}
    assert {path.stem for path in CONFIGS.glob("*.py")} == tested


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_published_ones(name):
    cfg = load(name)
    lr, rate, num_layers, drop_path, amp, arch, weights = RECIPES[name]
    optim = cfg.optim_wrapper
    assert optim.type == ("AmpOptimWrapper" if amp else "OptimWrapper")
    assert optim.constructor == "LayerDecayOptimWrapperConstructor"
    assert optim.paramwise_cfg == {
        "decay_rate": rate,
        "decay_type": "layer_wise",
        "num_layers": "auto",
    }
    assert optim.optimizer == {
        "type": "AdamW",
        "lr": lr,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    }
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (arch, drop_path)
    assert backbone.layer_scale_init_value == 1.0
    assert backbone.init_cfg.checkpoint == f"{HOST}convnext_{weights}.pth"
    with torch.device("meta"):
        assert MODELS.build({**backbone, "init_cfg": None}).num_layers == num_layers


@pytest.mark.parametrize("name", [n for n in COCO if "1x" not in n])
def test_the_3x_schedule(name):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == 36
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.begin, warm_up.end, warm_up.by_epoch) == (
        0.001,
        0,
        1000,
        False,
    )
    assert (steps.milestones, steps.gamma, steps.end, steps.by_epoch) == ([27, 33], 0.1, 36, True)
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": 16}
    assert cfg.train_dataloader.batch_size == 2


def test_the_1x_schedule():
    cfg = load("mask_rcnn_convnext_t_1x_coco")
    assert cfg.train_cfg.max_epochs == 12
    assert (cfg.param_scheduler[1].milestones, cfg.param_scheduler[1].end) == ([8, 11], 12)


@pytest.mark.parametrize("name", COCO)
def test_augmentation_and_data(name):
    cfg = load(name)
    load_image, annotations, flip, choice, pack = cfg.train_pipeline
    assert [t.type for t in (load_image, annotations, flip, choice, pack)] == [
        "LoadImageFromFile",
        "LoadAnnotations",
        "RandomFlip",
        "RandomChoice",
        "PackDetInputs",
    ]
    assert flip.prob == 0.5
    scales = [(s, 1333) for s in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    (resize,), (before, crop, after) = choice.transforms
    assert resize.scales == after.scales == scales
    assert before.scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop.crop_type, crop.crop_size, crop.allow_negative_crop) == (
        "absolute_range",
        (384, 600),
        True,
    )
    assert cfg.test_pipeline[1].scale == (1333, 800)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb
    assert preprocessor.pad_size_divisor == 32


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


@pytest.mark.parametrize("name", COCO)
def test_testing(name):
    cfg = load(name)
    rcnn = cfg.model.test_cfg.rcnn
    assert (rcnn.score_thr, rcnn.nms.iou_threshold, rcnn.max_per_img) == (0.05, 0.5, 100)
    assert cfg.test_evaluator.metric == ["bbox", "segm"]


@pytest.mark.parametrize("name", COCO)
def test_necks_fit_their_backbones(name):
    model = load(name).model
    assert tuple(model.neck.in_channels) == VARIANTS[model.backbone.arch].widths


@pytest.mark.parametrize("name", SHAPES)
def test_demo_configs_know_the_classes_of_shapes(name):
    cfg = load(name)
    assert tuple(cfg.train_dataloader.dataset.metainfo.classes) == CLASSES
    heads = cfg.model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        assert head.num_classes == len(CLASSES)
    assert cfg.model.roi_head.mask_head.num_classes == len(CLASSES)


@pytest.mark.parametrize("name", [*COCO, *SHAPES, "cascade_convnext_overfit"])
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


@pytest.mark.parametrize("name", [*COCO, *SHAPES])
def test_builds_trains_a_step_and_predicts(name):
    """At one block a stage, an eighth of the width and few RoIs; all else is as the config says."""
    cfg = load(name)
    drop_pretrained(cfg)
    replace_types(cfg, ["SyncBN"], "BN")
    widths = tuple(cfg.model.neck.in_channels)
    if name in COCO:
        widths = tuple(w // 8 for w in widths)
        cfg.model.backbone.arch = {"depths": (1, 1, 4, 1), "widths": widths}
        cfg.model.neck.in_channels = list(widths)
    rcnn = cfg.model.train_cfg.rcnn
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 16
    cfg.model.test_cfg.rpn.max_per_img = 20
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
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
        predictions = result.pred_instances
        assert predictions.masks.shape[0] == len(predictions.bboxes) <= 100
        assert tuple(predictions.masks.shape[1:]) == tuple(result.ori_shape[:2])
