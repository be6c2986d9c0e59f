"""What a training has left in its work folder: the config and the checkpoint to go on with."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from mmconvnext.errors import ConfigError, UserError
from mmconvnext.training.checkpoints import checkpoints_of

# Checkpoints in the order in which they are preferred: best mask AP, best of anything else.
BEST = ("best_*segm_mAP_*.pth", "best_*.pth")
PRUNED = "pruned.pth"  # what `mmconvnext prune` writes into its folder


class RunDir(NamedTuple):
    """A work folder's config, with everything resolved, and its checkpoint."""

    config: Path
    checkpoint: Path


def find_run(folder: Path) -> RunDir:
    """Find a run's config and its best checkpoint: by mask AP, by another metric, else the last.

    Raises:
        UserError: the folder has no config, or no checkpoint, of a training.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    runs = sorted(folder.glob("*/run.json"))
    names = [json.loads(path.read_bytes())["config"] for path in reversed(runs)]
    configs = [folder / Path(name).name for name in names] or sorted(folder.glob("*.py"))
    configs = [path for path in configs if path.is_file()]
    if not configs or (not runs and len(configs) > 1):
        raise UserError(
            f"{folder} is no work folder of a training: it has {len(configs)} configs; give the "
            "config and the checkpoint"
        )
    found = [path for pattern in BEST for path in sorted(folder.glob(pattern), key=_time)[-1:]]
    found += checkpoints_of(folder)[:1] or folder.glob(PRUNED)
    if not found:
        raise UserError(f"{folder} has no checkpoint yet (best_*.pth, epoch_*.pth or iter_*.pth)")
    return RunDir(configs[0], found[0])


def find_detector(config: str | PathLike, checkpoint: str | PathLike | None) -> tuple[str, str]:
    """The config and the checkpoint of a detector, which may be those of a work folder.

    Raises:
        UserError: there is none, or a config stands without a checkpoint.
    """
    if Path(config).is_dir():
        run = find_run(Path(config))
        config, checkpoint = run.config, checkpoint or run.checkpoint
    if checkpoint is None:
        raise ConfigError(
            f"{config} is no work folder of a training: a config is given with a checkpoint"
        )
    return str(config), str(checkpoint)


def _time(path: Path) -> float:
    return path.stat().st_mtime
