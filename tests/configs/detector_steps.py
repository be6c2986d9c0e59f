"""What every detector goes through, narrow and on real pictures, in one process or in two."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import mmconvnext  # noqa: F401 (must come before mmdet; another process begins here)

# isort: split
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmconvnext.engine.advice import explain_misfits
from mmconvnext.engine.backbone_swap import use_backbone
from mmconvnext.engine.config import drop_pretrained, load_config, replace_types

WIDTHS = (8, 16, 24, 32)
SIZE, SMALL = (512, 384), (192, 128)  # multiples of 32: RTMDet-Ins does not pad
STEPS = 2  # a layer that starts at zero lets its inputs have a gradient from the second on
CHANNELS = (
    *("in_channels", "out_channels", "feat_channels", "conv_out_channels", "fc_out_channels"),
    *("embed_dims", "feedforward_channels", "num_feats", "proposal_feature_channel"),
)
FEW = {"num_groups": 4, "num_queries": 20, "num_proposals": 20, "num": 32}
FEW |= {"num_points": 256, "subdivision_num_points": 64, "subdivision_steps": 2}
FEW |= {"nms_pre": 100, "max_per_img": 20, "score_thr": 0.0}
STAGES = ("built", "trained", "predicted", "reloaded")


def narrow_head(settings: Any, channels: tuple[str, ...]) -> None:
    """Channels an eighth, in groups of 4 if any, and few queries and regions, in place."""
    if isinstance(settings, list | tuple):
        for each in settings:
            narrow_head(each, channels)
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if key in channels and isinstance(value, int) and value >= 64:
            settings[key] = value // 8
        elif key in FEW and value is not None:
            settings[key] = min(value, FEW[key])
        else:
            narrow_head(value, channels)


def is_dino(cfg: Config) -> bool:
    """Whether it is one whose decoder has 256 channels whatever the config says."""
    return cfg.model.type in ("DINO", "DDQDETR", "ConditionalDETR")


def narrow_config(name: str, swap: str | None = None) -> Config:
    """A config, after ``--backbone`` if given, narrow and with few layers, queries and regions."""
    cfg = load_config(name)
    if swap:
        use_backbone(cfg, name, swap)
    drop_pretrained(cfg)
    replace_types(cfg, ["SyncBN"], "BN")
    model = cfg.model
    model.backbone.update(arch={"depths": (1, 1, 1, 1), "widths": WIDTHS}, drop_path_rate=0.0)
    widths = [WIDTHS[i] for i in model.backbone.get("out_indices", range(4))]
    neck = model.get("neck") or model["panoptic_head"]
    neck = neck[0] if isinstance(neck, list) else neck
    before = neck["in_channels"]
    if isinstance(before, int):
        neck["in_channels"] = widths[0]
    else:  # YOLOv3's neck counts from the last level
        neck["in_channels"] = widths if list(before) == sorted(before) else widths[::-1]
    model.data_preprocessor.batch_augments = None
    for part in ("encoder", "decoder"):
        if "num_layers" in model.get(part, {}):
            model[part].num_layers = 2
    narrow_head(model, ("feedforward_channels",) if is_dino(cfg) else CHANNELS)
    if "encoder" in model and not is_dino(cfg):
        model.bbox_head.embed_dims = model.encoder.layer_cfg.self_attn_cfg.embed_dims
    if "num_layers" in cfg.optim_wrapper.paramwise_cfg:
        cfg.optim_wrapper.paramwise_cfg.num_layers = "auto"
    if model.type == "RTMDet":  # as tools/train.py does without a GPU
        model.use_syncbn = False
    cfg.optim_wrapper.type = "OptimWrapper"
    cfg.optim_wrapper.pop("loss_scale", None)
    return cfg


def build(cfg: Config, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS.build(deepcopy(cfg.model))  # DETR's write into their config
    model.init_weights()
    # a constant picture border otherwise lets LayerNorm multiply gradients
    nn.init.normal_(model.backbone.downsample_layers[0][0].bias)
    return model


@cache
def pictures(root: Path, with_mask: bool, keep_ratio: bool, size: tuple[int, int]) -> list[dict]:
    """Small real pictures with their objects, for two steps of two pictures in two processes."""
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": with_mask},
        {"type": "Resize", "scale": size, "keep_ratio": keep_ratio},
        {"type": "PackDetInputs"},
    ]
    dataset = CocoDataset(
        ann_file="annotations/instances_train2017.json",
        data_root=str(root),
        data_prefix={"img": "train2017/"},
        filter_cfg={"filter_empty_gt": True, "min_size": 32},
        indices=4 * STEPS,
        pipeline=pipeline,
    )
    return [dataset[index] for index in range(len(dataset))]


def batches(cfg: Config, root: Path, rank: int = 0, size: tuple[int, int] = SIZE) -> list[dict]:
    masks = "'with_mask': True" in str(cfg.train_dataloader)
    # where masks are not padded the config's pipeline makes pictures of one size
    keep_ratio = bool(not masks or cfg.model.data_preprocessor.get("pad_mask"))
    slow = is_dino(cfg) or cfg.model.type == "Mask2Former"
    samples = pictures(root, masks, keep_ratio, SMALL if slow else size)[rank::2]
    return [pseudo_collate(deepcopy(samples[2 * i : 2 * i + 2])) for i in range(STEPS)]


def without_gradient(model: nn.Module, cfg: Config, data: list[dict]) -> list[str]:
    """Train steps; the parameters whose gradient was zero, or missing, in all of them."""
    silent = {name for name, each in model.named_parameters() if each.requires_grad}

    def watch(name: str, parameter: nn.Parameter) -> None:
        parameter.register_hook(lambda gradient: silent.discard(name) if gradient.any() else None)

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            watch(name, parameter)
    wrapper = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
    model.train()
    for step, batch in enumerate(data):
        # as MMEngine's RuntimeInfoHook; TOOD has another assigner from its fifth epoch on
        MessageHub.get_current_instance().update_info("epoch", 4 * step)
        losses = model.train_step(batch, wrapper)
        assert all(torch.isfinite(value).all() for value in losses.values()), losses
    return sorted(silent)


def predictions(model: nn.Module, batch: dict) -> list[dict]:
    model.eval()
    with torch.no_grad():
        results = model.test_step(deepcopy(batch))
    assert len(results) == len(batch["inputs"])
    assert any(len(result.pred_instances) for result in results)
    return [result.pred_instances.to_dict() for result in results]


def go_through(
    name: str, root: Path, folder: Path, rank: int = 0, processes: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """Yield each of STAGES when it is done, with the parameters that had no gradient."""
    cfg = narrow_config(name)
    model = build(cfg)
    misfits = explain_misfits(model, cfg)
    assert misfits == {}, misfits
    yield "built", []
    data = batches(cfg, root, rank, SMALL if processes > 1 else SIZE)
    trained = model
    if processes > 1:
        trained = MMDistributedDataParallel(model, broadcast_buffers=False)
    yield "trained", without_gradient(trained, cfg, data)
    before = predictions(model, data[0])
    yield "predicted", []
    path = folder / "model.pth"
    if rank == 0:
        torch.save(model.state_dict(), path)
    if processes > 1:
        torch.distributed.barrier()
    again = build(cfg, seed=1)
    state = torch.load(path, weights_only=True)
    # DDQ's decoder takes the head's branches as its own in the first step of a training: the same
    # tensors by a second name, which a new model does not have yet
    shared = {n for n in state if n.startswith("decoder.aux_reg_branches.")}
    for key in shared:
        assert torch.equal(state.pop(key), state[key.replace("decoder", "bbox_head", 1)])
    again.load_state_dict(state, strict=True)
    after = predictions(again, data[0])
    if rank == 0:  # statistics of BN are each process's own
        torch.testing.assert_close(after, before)
    yield "reloaded", []


def go_through_together(rank: int, folder: Path, names: list[str], root: Path) -> None:
    """Let each detector go through all in two processes; write what came of it."""
    MMLogger.get_current_instance().setLevel("ERROR")
    init_default_scope("mmdet")
    came = {}
    for name in names:
        try:
            came[name] = [
                stage for stage, _ in go_through(f"mmconvnext::{name}", root, folder, rank, 2)
            ]
        except Exception as error:
            came[name] = f"{type(error).__name__}: {error}"
        torch.distributed.barrier()
    (folder / f"came{rank}.json").write_text(json.dumps(came))
