"""The peers of the paper's table 3: what they cost, and the recipe by which they are trained."""

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.optim import build_optim_wrapper

from mmconvnext.analysis.flops import count_config
from tests.configs.test_configs import CONFIGS, build_small, load

# FACTS section 10: G multiply-adds and M parameters, counted and published. Its 107.0 M of Swin-S
# are 106.948 M rounded twice: timm's 49,606,258 less its classifier, and the other parts.
COSTS = {
    "cascade_resnet50_coco": (737.6, 82.2, 739, 82),
    "cascade_resnext101_32x4d_coco": (816.8, 100.9, 819, 101),
    "cascade_resnext101_64x4d_coco": (969.6, 140.1, 972, 140),
    "cascade_swin_t_coco": (744.8, 85.6, 745, 86),
    "cascade_swin_s_coco": (836.8, 106.948, 838, 107),
    "cascade_swin_b_coco": (981.3, 145.0, 982, 145),
    "cascade_swin_b_in22k_coco": (981.3, 145.0, 982, 145),
    "cascade_swin_l_in22k_coco": (1391.6, 253.5, 1382, 253),
    "mask_rcnn_swin_t_coco": (266.6, 47.8, 267, 48),
    # of which section 9 has the published ones
    "cascade_dwnet_t_coco": (727.3, 81.5, 730, 82),
    "cascade_dwnet_t_dynamic_coco": (727.3, 108.5, 730, 108),
}
DWNET = "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_"
# Weights, drop path (None where MMDetection's backbone has none) and channels of the first stage.
RECIPES = {
    "cascade_resnet50_coco": ("torchvision://resnet50", None, 256),
    "cascade_resnext101_32x4d_coco": ("open-mmlab://resnext101_32x4d", None, 256),
    "cascade_resnext101_64x4d_coco": ("open-mmlab://resnext101_64x4d", None, 256),
    "cascade_swin_t_coco": (f"{SWIN}tiny_patch4_window7_224.pth", 0.2, 96),
    "cascade_swin_s_coco": (f"{SWIN}small_patch4_window7_224.pth", 0.2, 96),
    "cascade_swin_b_coco": (f"{SWIN}base_patch4_window7_224.pth", 0.3, 128),
    "cascade_swin_b_in22k_coco": (f"{SWIN}base_patch4_window7_224_22k.pth", 0.3, 128),
    "cascade_swin_l_in22k_coco": (f"{SWIN}large_patch4_window7_224_22k.pth", 0.3, 192),
    "mask_rcnn_swin_t_coco": (f"{SWIN}tiny_patch4_window7_224.pth", 0.2, 96),
    "cascade_dwnet_t_coco": (f"{DWNET}dwnet_tiny_224.pth", 0.2, 96),
    "cascade_dwnet_t_dynamic_coco": (f"{DWNET}dynamic_dwnet_tiny_224.pth", 0.2, 96),
}


def test_every_config_is_tested():
    assert {path.stem for path in (CONFIGS / "table3").glob("*.py")} == set(COSTS) == set(RECIPES)


@pytest.mark.parametrize("name", COSTS)
def test_detectors_cost_what_was_counted_and_published(name):
    flops, params, *published = COSTS[name]
    cost = count_config(load(f"table3/{name}"))
    assert cost.flops / 1e9 == pytest.approx(flops, abs=0.05)
    assert cost.params / 1e6 == pytest.approx(params, abs=0.05)
    assert cost.flops / 1e9 == pytest.approx(published[0], rel=0.007 if "_l_" in name else 0.005)
    assert round(cost.params / 1e6) == published[1]


@pytest.mark.parametrize("name", RECIPES)
def test_all_but_backbone_neck_and_optimizer_is_that_of_convnext(name):
    kind = name.split("_", maxsplit=1)[0].replace("mask", "mask_rcnn")
    ours = load(f"{kind}_convnext_t_coco").to_dict()
    cfg = load(f"table3/{name}").to_dict()
    checkpoint, drop_path, width = RECIPES[name]
    backbone = cfg["model"].pop("backbone")
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": checkpoint}
    assert backbone.get("drop_path_rate") == drop_path
    assert cfg["model"]["neck"].pop("in_channels") == [width * 2**stage for stage in range(4)]
    assert cfg.pop("sync_bn", None) == ("torch" if "dwnet" in name else None)
    optim = cfg.pop("optim_wrapper")
    assert optim["type"] == "AmpOptimWrapper"
    adamw = {"type": "AdamW", "lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.05}
    assert optim["optimizer"] == adamw
    del ours["model"]["backbone"], ours["model"]["neck"]["in_channels"], ours["optim_wrapper"]
    assert cfg == ours


TRAINED = ["cascade_resnet50_coco", "mask_rcnn_swin_t_coco", "cascade_dwnet_t_dynamic_coco"]


@pytest.mark.parametrize("name", TRAINED)
def test_trains_a_step_without_decaying_norms(name):
    cfg = load(f"table3/{name}")
    model = build_small(cfg)
    wrapper = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"})
    decay = {}
    names = {param: name for name, param in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        decay.update((names[param], group["weight_decay"]) for param in group["params"])
    if "resnet" not in name:
        tables = [k for k in decay if k.endswith("relative_position_bias_table")]
        assert len(tables) == (0 if "dwnet" in name else 12)
        undecayed = [*tables, *(k for k in decay if "norm" in k)]
    else:
        norms = torch.nn.modules.batchnorm._BatchNorm
        is_norm = {k for k, m in model.named_modules() if isinstance(m, norms)}
        undecayed = [k for k in decay if k.rpartition(".")[0] in is_norm]
        assert len(undecayed) > 80
    assert {k for k, value in decay.items() if value == 0} == set(undecayed)

    data = demo_mm_inputs(2, [[3, 64, 96], [3, 96, 64]], num_classes=80, with_mask=True)
    model.train()
    losses = model.train_step(data, wrapper)
    assert all(torch.isfinite(value).all() for value in losses.values())
