"""Choosing batch size, accumulation, schedule and the like by trial steps (``--auto``)."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_dist_info, init_dist, is_distributed

from mmconvnext.engine.config import drop_pretrained, use_amp
from mmconvnext.engine.device import check_launcher, has_accelerator, init_distributed_on_cpu
from mmconvnext.engine.trial import Trial
from mmconvnext.errors import UserError

SECONDS = 50.0  # for the trial, with the start of its process
MEMORY_SHARE = 0.8  # of what is free, at most
BATCH = 16  # images an update, where the config does not say what its learning rate is meant for
# The epochs of a config are meant for COCO's images (train2017, those with objects). A smaller
# data set gets more of them and yet fewer steps: both with the root of how much smaller it is.
COCO_IMAGES, MAX_EPOCHS = 117_266, 300
VALIDATIONS = 30  # evaluations and checkpoints of a training, at most


def choose(cfg: Config) -> list[str]:
    """Choose batch size, accumulation, workers, precision, learning rate and schedule by a trial.

    Args:
        cfg: of a training, complete; changed in place.

    Returns:
        Lines for the log to come, one of them with the choice as ``--cfg-options``.

    Raises:
        UserError: the config cannot be trained, or not even with one image.
    """
    launcher = cfg.get("launcher", "none")
    check_launcher(launcher)
    if launcher != "none" and not is_distributed():
        init_distributed_on_cpu(launcher, cfg.get("env_cfg"))
        if has_accelerator():
            init_dist(launcher, **cfg.env_cfg.dist_cfg)
    rank, processes = get_dist_info()
    chosen: list[Any] = [None]
    if rank == 0:
        try:
            chosen = [_choose(cfg, processes)]
        except UserError as error:
            chosen = [error]
    broadcast_object_list(chosen)
    if isinstance(chosen[0], UserError):
        raise chosen[0]
    options, notes = chosen[0]
    cfg.merge_from_dict(options)
    return notes


def _choose(cfg: Config, processes: int) -> tuple[dict[str, Any], list[str]]:
    """The options that are chosen, and lines for the log."""
    # Processes of one machine share its cores and its memory, and have a GPU each.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    limit = host = int(MEMORY_SHARE * free_memory() / here)
    if has_accelerator():
        limit = int(MEMORY_SHARE * torch.cuda.mem_get_info()[0])
    options, trials = {}, measure(cfg, limit, amp=has_accelerator())
    if has_accelerator() and not all(trial.finite for trial in trials):
        trials = measure(cfg, limit)
    elif has_accelerator() and cfg.optim_wrapper.type == "OptimWrapper":
        options = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    best = check_memory(trials[-1], limit)
    options |= choose_options(cfg, best, processes)
    spare = host if has_accelerator() else limit - best.memory
    workers = choose_workers(best, spare, (os.cpu_count() or 1) // here)
    options["train_dataloader.num_workers"] = workers
    options["train_dataloader.persistent_workers"] = workers > 0
    notes = explain(trials, best, limit, options, processes)
    notes.append(f"--auto: the same as --cfg-options {as_text(options)}")
    return options, notes


def _target(cfg: Config) -> int:
    """Images of an update."""
    return (cfg.get("auto_scale_lr") or {}).get("base_batch_size", BATCH)


def measure(cfg: Config, limit: int, amp: bool = False, seconds: float = SECONDS) -> list[Trial]:
    """Take trial steps in a process of their own, and say on stderr how far that is.

    Raises:
        UserError: the first step failed.
    """
    trial = Config(cfg.to_dict())
    trial.launcher, trial.resume, trial.load_from = "none", False, None
    trial.shard = False
    trial.log_level, trial.visualizer = "ERROR", {**cfg.visualizer, "vis_backends": []}
    trial.train_dataloader.batch_size = _target(cfg)
    if amp:
        use_amp(trial)
    drop_pretrained(trial)
    trials, last = [], ""
    with tempfile.TemporaryDirectory() as folder:
        trial.work_dir = folder
        path = Path(folder, "trial.py")
        trial.dump(path)
        for line in _lines([str(path), str(time.time() + seconds), str(limit)]):
            last = line.strip() or last
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            if "error" in found:
                raise UserError(found["error"].replace(str(path), str(cfg.filename)))
            trials.append(Trial(**found))
            print(f"--auto: a step with {_describe(trials[-1])}", file=sys.stderr)
    if not trials:
        raise UserError(f"--auto: a training step with one image failed: {last}")
    return trials


def _lines(arguments: Sequence[str]) -> Iterator[str]:
    """What the trial's process prints, line by line, errors too."""
    launched = re.compile("RANK|WORLD_SIZE|LOCAL_|MASTER_|GROUP_|ROLE_|TORCHELASTIC_|SLURM_|OMPI_")
    environment = {key: value for key, value in os.environ.items() if not launched.match(key)}
    command = [sys.executable, "-m", "mmconvnext.engine.trial", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            yield from process.stdout
        finally:
            process.kill()


def check_memory(trial: Trial, limit: int) -> Trial:
    """Give the trial back, or raise UserError where it takes more memory than the limit."""
    if trial.memory <= limit:
        return trial
    raise UserError(
        f"--auto: a training step with one image takes {_gib(trial.memory)}, and {_gib(limit)} is "
        f"what may be used ({MEMORY_SHARE:.0%} of what is free): choose a smaller detector, "
        "smaller images or a machine with more memory"
    )


def choose_options(cfg: Config, trial: Trial, processes: int) -> dict[str, Any]:
    """Batch, accumulation, learning rate and schedule, by dotted names.

    The images of an update are those that the learning rate is meant for, as near as can be; where
    they are not, the learning rate is scaled with them. Schedules by epoch get longer as the data
    set gets smaller; those by iteration keep their number of updates.
    """
    base = _target(cfg)
    batch = trial.batch_size * processes
    accumulated = max(1, round(min(base, trial.images) / batch))
    options: dict[str, Any] = {
        "train_dataloader.batch_size": trial.batch_size,
        "optim_wrapper.accumulative_counts": accumulated,
    }
    if batch * accumulated != base:
        lr = cfg.optim_wrapper.optimizer.lr * batch * accumulated / base
        options["optim_wrapper.optimizer.lr"] = float(f"{lr:.3g}")
    steps = accumulated / cfg.optim_wrapper.get("accumulative_counts", 1)
    return options | _choose_schedule(cfg, steps, trial.images, math.ceil(trial.images / batch))


def _choose_schedule(cfg: Config, steps: float, images: int, epoch: int) -> dict[str, Any]:
    """Choose the length, from iterations for one of the config's, images, iterations an epoch."""
    loop, epochs = cfg.train_cfg, cfg.train_cfg.get("max_epochs")
    if epochs:
        longer = max(1.0, math.sqrt(COCO_IMAGES / images))
        new = min(round(epochs * longer), max(MAX_EPOCHS, epochs))
        interval = math.ceil(new / VALIDATIONS)
        options = {"train_cfg.max_epochs": new, "train_cfg.val_interval": interval}
        if "checkpoint" in cfg.default_hooks:
            options["default_hooks.checkpoint.interval"] = interval
        total, longer = new * epoch, new / epochs
    else:
        keys = [key for key in ("max_iters", "val_begin", "val_interval") if key in loop]
        options = {f"train_cfg.{key}": round(loop[key] * steps) for key in keys}
        total, longer = options["train_cfg.max_iters"], steps
    schedules = cfg.get("param_scheduler") or []
    several = isinstance(schedules, Sequence)
    for i, schedule in enumerate(schedules if several else [schedules]):
        name = f"param_scheduler.{i}" if several else "param_scheduler"
        by_epoch = schedule.get("by_epoch", True)
        most = math.inf if by_epoch or not epochs else total // 10  # of a warm-up
        for key in sorted({"begin", "end", "T_max", "milestones"} & set(schedule)):
            value = _scaled(schedule[key], longer if by_epoch else steps, most)
            if value != schedule[key]:
                options[f"{name}.{key}"] = value
    return options


def _scaled(value: Any, factor: float, most: float) -> Any:
    if isinstance(value, Sequence):
        return [_scaled(each, factor, most) for each in value]
    return min(round(value * factor), most)


def choose_workers(trial: Trial, spare: int, cores: int) -> int:
    """As many processes that load images as keep up with the steps and fit into spare bytes."""
    needed = math.ceil(trial.loading * trial.batch_size / trial.seconds)
    fitting = spare // max(trial.worker_memory, 1)
    return max(0, min(needed, cores, fitting))


def explain(
    trials: Sequence[Trial], best: Trial, limit: int, options: Mapping[str, Any], processes: int
) -> list[str]:
    """Say why it was chosen, and how long the training takes."""
    tried = "; ".join(map(_describe, trials[:-1]))  # the last are more steps with the best
    steps = options.get("train_cfg.max_iters")
    length = f"{steps} iterations"
    if not steps:
        epochs = options["train_cfg.max_epochs"]
        epoch = math.ceil(best.images / (best.batch_size * processes))
        steps, length = epochs * epoch, f"{epochs} epochs of {epoch} iterations"
    return [
        f"--auto: {best.images} images; a training step with the largest of them: {tried}",
        f"--auto: {length}, at most {_hours(steps * best.seconds)} and validation; --time ends it "
        "earlier",
        f"--auto: {_gib(best.memory)} of memory will be needed at the most, and "
        f"{best.worker_memory / 2**20:.0f} MiB for each worker; {_gib(limit)} may be used",
    ]


def _describe(trial: Trial) -> str:
    return f"batch size {trial.batch_size}: {trial.speed:.2g} images/s, {_gib(trial.memory)}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def as_text(options: Mapping[str, Any]) -> str:
    """Options as they are typed into a shell."""
    pairs = (f"{key}={_plain(value)}" for key, value in options.items())
    return " ".join(map(shlex.quote, pairs))


def _plain(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def free_memory() -> int:
    """Bytes that processes may still take, of the machine and of their control group."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    free = int(re.search(r"MemAvailable:\s*(\d+) kB", meminfo)[1]) * 1024
    groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return min([free, *left_in_control_groups(groups, Path("/sys/fs/cgroup"))])


def left_in_control_groups(lines: Sequence[str], root: Path) -> Iterator[int]:
    """What is left of the limits under which containers and batch systems start processes.

    Args:
        lines: of ``/proc/self/cgroup``.
        root: where the file system of control groups lies.
    """
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        parent = root / kind
        if not kind:  # version 2
            names = ("memory.max", "memory.current")
        # A container sees its own group at the root.
        for folder in {parent / path.strip("/"), parent}:
            with suppress(OSError, ValueError):  # no such group, or "max"
                limit, used = (int((folder / name).read_text()) for name in names)
                yield limit - used
