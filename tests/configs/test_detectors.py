"""ConvNeXt in other detectors: each config builds, trains a step, predicts, saves and reloads."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmconvnext.engine.advice import explain_misfits
from mmconvnext.engine.config import drop_pretrained, load_config, replace_types

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OTHER_FOLDERS = ("_base_", "roadmap", "table3")
DETECTORS = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.glob("*/*.py")
    if path.parent.name not in OTHER_FOLDERS
)
WIDTHS = (8, 16, 24, 32)


def with_width(value: dict) -> dict:
    """Narrow the backbone to WIDTHS."""
    backbone = value["backbone"]
    backbone.arch = {"depths": (1, 1, 1, 1), "widths": WIDTHS}
    narrow = [WIDTHS[i] for i in backbone.get("out_indices", range(4))]
    place = value.get("neck") or value["panoptic_head"]
    (place[0] if isinstance(place, list) else place)["in_channels"] = narrow
    return value


def build_tiny(cfg: Config) -> torch.nn.Module:
    """With a narrow backbone and few queries and regions; all else is as the config says."""
    drop_pretrained(cfg)
    replace_types(cfg, ["SyncBN"], "BN")
    cfg.model.data_preprocessor.batch_augments = None
    with_width(cfg.model)
    for part in ("encoder", "decoder"):
        if part in cfg.model and "num_layers" in cfg.model[part]:
            cfg.model[part].num_layers = 2
    if "num_queries" in cfg.model:
        cfg.model.num_queries = 20
    torch.manual_seed(0)
    model = MODELS.build(deepcopy(cfg.model))  # DETR's write into their config
    model.init_weights()
    # a constant picture border otherwise lets LayerNorm multiply gradients (FACTS section 10)
    torch.nn.init.normal_(model.backbone.downsample_layers[0][0].bias)
    return model


@pytest.mark.parametrize("name", DETECTORS)
def test_a_config_is_a_short_delta(name):
    lines = (CONFIGS / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 15
    assert any(line.startswith('_base_ = "mmdet::') for line in lines)


@pytest.mark.parametrize("name", DETECTORS)
def test_builds_trains_a_step_predicts_and_reloads(name, tmp_path):
    cfg = load_config(f"mmconvnext::{name}")
    model = build_tiny(cfg)
    assert explain_misfits(model, cfg) == {}
    masks = "'with_mask': True" in str(cfg.train_dataloader)
    # where masks are not padded the config's pipeline makes pictures of one size
    padded = not masks or cfg.model.data_preprocessor.get("pad_mask")
    sizes = [[3, 64, 96], [3, 96, 64] if padded else [3, 64, 96]]
    data = demo_mm_inputs(2, sizes, num_classes=80, with_mask=masks)
    # float32, as tools/train.py does without a GPU
    wrapper_cfg = {**cfg.optim_wrapper, "type": "OptimWrapper"}
    wrapper_cfg.pop("loss_scale", None)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    model.train()
    batch = model.data_preprocessor(data, training=True)
    loss, losses = model.parse_losses(model(**batch, mode="loss"))
    assert all(torch.isfinite(value).all() for value in losses.values())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    wrapper.step()

    model.eval()
    with torch.no_grad():
        assert len(model.test_step(data)) == 2
    torch.save(model.state_dict(), tmp_path / "model.pth")
    again = MODELS.build(cfg.model)
    again.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True), strict=True)
