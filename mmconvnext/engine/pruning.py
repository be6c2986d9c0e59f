"""A detector that is pruned: losses to prune it by, a config and a checkpoint to train on with."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmconvnext.data.paths import write_whole
from mmconvnext.engine.config import drop_pretrained
from mmconvnext.engine.own_data import write_config
from mmconvnext.engine.provenance import run_info
from mmconvnext.engine.run_dir import PRUNED
from mmconvnext.engine.runner import build_runner
from mmconvnext.training.checkpoints import WholeFileBackend
from mmconvnext.training.places import seed_all
from mmconvnext.training.val_loss import training_copy
from mmconvnext.weights.detector import match_detector

# Of the recipe's schedule, and of its learning rate: with the whole rate, as "Comparing Rewinding
# and Fine-tuning in Neural Network Pruning" (Renda et al., 2020) has it for longer trainings, a
# third of the schedule lost AP (docs/compression.md).
SHARE, LR_SHARE = 1 / 3, 0.1
COMMENT = """\
# {name}, pruned by `mmconvnext prune` to {share:.1%} of its backbone's multiply-adds.
# It is a ConvNeXt like any other but for `hidden` of `arch`: for each stage, the channels between
# the two linear layers of each block that is left; unpruned they are four times the stage's width.
# It trains on from the pruned checkpoint, by the recipe's settings in a third of its schedule, from
# a tenth of its learning rate.
"""


def training_losses(cfg: Config, model: nn.Module, batches: int) -> Iterator[Tensor]:
    """The loss of a trained detector on some batches of its training, each when it is asked for.

    Augmented as in the training, by a seed; without dropout and stochastic depth, and with batch
    norm's running statistics. A smaller data set has fewer batches.

    Args:
        cfg: of the training, which is not changed.
        model: the detector.
        batches: how many, at most.

    Raises:
        UserError: the training data cannot be used.
    """
    cfg = deepcopy(cfg)
    drop_pretrained(cfg)
    cfg.resume, cfg.launcher, cfg.exact_resume = False, "none", True
    # another name than a later runner's in this process: MMEngine keeps visualizers by name
    cfg.visualizer = {**cfg.visualizer, "name": "pruning", "vis_backends": []}
    cfg.log_level = "WARNING"
    cfg.randomness = {"seed": 0, **(cfg.get("randomness") or {})}
    with TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = build_runner(cfg, ("train",))
        copy, loader = training_copy(model), runner.train_dataloader
        loader.batch_sampler.start = (runner.seed, 0, 0)
        for number, batch in enumerate(islice(loader, batches)):
            seed_all(runner.seed, number, 0, -1)
            data = copy.data_preprocessor(batch, True)
            yield copy.parse_losses(copy(**data, mode="loss"))[0]


def retraining_config(cfg: Config, arch: Mapping[str, Any], out: Path) -> Config:
    """The config of a pruned detector's training, which starts from its checkpoint.

    Args:
        cfg: of the unpruned detector, which is not changed.
        arch: of the pruned backbone.
        out: the folder with the checkpoint.
    """
    cfg = deepcopy(cfg)
    drop_pretrained(cfg)
    cfg.model.backbone.arch = dict(arch)
    cfg.load_from, cfg.resume = str((out / PRUNED).absolute()), False
    for name in ("work_dir", "launcher"):
        cfg.pop(name, None)
    paramwise = cfg.optim_wrapper.get("paramwise_cfg") or {}
    if "num_layers" in paramwise:  # a number is that of the unpruned depth
        paramwise["num_layers"] = "auto"
    _shorten(cfg)
    if "lr" in (optimizer := cfg.optim_wrapper.get("optimizer") or {}):
        optimizer["lr"] = float(f"{LR_SHARE * optimizer['lr']:.4g}")
    return cfg


def _shorten(cfg: Config) -> None:
    """Take ``SHARE`` of the schedule; warm-ups by iteration of a training by epoch stay."""
    by_epoch = "max_epochs" in cfg.train_cfg
    for key in ("max_epochs", "max_iters", "val_begin", "val_interval"):
        if key in cfg.train_cfg:
            cfg.train_cfg[key] = _share(cfg.train_cfg[key])
    schedules = cfg.get("param_scheduler") or []
    for schedule in schedules if isinstance(schedules, list | tuple) else [schedules]:
        if schedule.get("by_epoch", True) == by_epoch:
            for key in {"begin", "end", "T_max", "milestones"} & set(schedule):
                schedule[key] = _share(schedule[key])


def _share(value: int | float | Sequence[int]) -> Any:
    if isinstance(value, Sequence):
        return [_share(each) for each in value]
    return value if value == math.inf else math.ceil(value * SHARE)


def write_pruned(
    out: Path,
    cfg: Config,
    base: str | None,
    share: float,
    state: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Write a pruned detector's config and, once it is known to fill its model, the checkpoint.

    Args:
        out: folder to write; the checkpoint is its ``PRUNED``.
        cfg: of the pruned detector, see :func:`retraining_config`.
        base: the config to inherit from, by path or name; None to write the whole config.
        share: of the backbone's multiply-adds that is left.
        state: the detector's tensors.
        meta: more to be in the checkpoint's ``meta``.

    Returns:
        The paths of both.

    Raises:
        WeightsError: the tensors do not fill the model.
    """
    scope = DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet"))
    with scope, torch.device("meta"):
        model = MODELS.build(deepcopy(cfg.model))
    match_detector(model, state, PRUNED, must_fill=True)
    path, file = out / PRUNED, io.BytesIO()
    meta = {**meta, "cfg": cfg.pretty_text, "run": run_info(cfg)}
    torch.save({"meta": meta, "state_dict": dict(state)}, file)
    WholeFileBackend().put(file.getbuffer(), path)
    comment = COMMENT.format(name=Path(base or cfg.filename).name, share=share)
    config = out / f"{Path(cfg.filename).stem}_pruned.py"
    if base is None:
        write_whole(config, comment + cfg.pretty_text)
    else:
        write_config(cfg, base, config, comment)
    return config, path
