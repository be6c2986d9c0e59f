"""A tiny detector on *shapes*, trained in one process or in several that talk through gloo."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope

from mmconvnext.data.shapes import generate_shapes
from mmconvnext.engine.runner import build_runner
from tests.configs.detector_steps import narrow_config


class Losses(Hook):
    """Seeds each step; keeps its loss and the norm of its gradient."""

    def __init__(self):
        self.values = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        torch.manual_seed(100 * runner.iter + runner.rank)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        norm = runner.message_hub.get_scalar("train/grad_norm").current()
        self.values.append((outputs["loss"].item(), float(norm)))


def tiny(folder: Path, name: str, iterations: int = 3, **changes: Any) -> Config:
    """A training of Mask R-CNN in ``folder / name``; its data is in ``folder``."""
    cfg = narrow_config("mmconvnext::mask_rcnn_convnext_shapes.py")
    generate_shapes(folder / "data", num_train=8, num_val=5, image_size=64)
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(folder / "data")
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.train_dataloader.sampler.seed = 0
    cfg.train_dataloader.dataset.pipeline.pop(2)  # flips, by numpy's random numbers
    cfg.val_evaluator.ann_file = str(folder / "data/annotations/instances_val.json")
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.optim_wrapper.clip_grad = {"max_norm": 1.0}
    cfg.train_cfg.max_iters = iterations
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 1}
    cfg.update(work_dir=str(folder / name), experiment_name=f"{folder.name}_{name}")
    cfg.visualizer.name = cfg.work_dir  # those of one name are one object, with one folder
    cfg.update(launcher="none", load_from=None, log_level="ERROR", randomness={"seed": 0})
    cfg.merge_from_dict(changes)
    return cfg


def resize_all(cfg: Config, scale: tuple[int, int]) -> None:
    """Give all training images one size (width, height), in place of random ones."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    for index, transform in enumerate(pipeline):
        if transform["type"] in ("RandomChoice", "RandomChoiceResize"):
            pipeline[index] = {"type": "Resize", "scale": scale, "keep_ratio": False}


def train(cfg: Config) -> list[tuple[float, float]]:
    """The loss and the gradient's norm of each step."""
    cfg.launcher = "pytorch" if torch.distributed.is_initialized() else "none"
    runner = build_runner(cfg, ("train", "val"))
    runner.register_hook(kept := Losses(), "LOWEST")
    runner.train()
    return kept.values


def _start(rank: int, function: Callable, folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    init_default_scope("mmdet")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=120),
    )
    try:
        torch.save(function(folder), folder / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
        (folder / "store").unlink(missing_ok=True)


def in_processes(function: Callable, folder: Path, processes: int = 2) -> list[Any]:
    """Call ``function(folder)`` in several processes; what each of them gave."""
    torch.multiprocessing.spawn(_start, (function, folder, processes), processes)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]
