"""Train a detector."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mmconvnext.cli import common
from mmconvnext.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_run_arguments(parser)
    add = parser.add_argument
    add("--amp", action="store_true", help="train in mixed precision")
    parts = "part weights, gradients and optimizer among the processes (torch's fully_shard)"
    add("--shard", action="store_true", help=parts)
    add("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    last = "resume from a checkpoint; without a value from the last one in the work folder"
    resumed = {"nargs": "?", "const": "auto", "type": common.existing_checkpoint}
    add("--resume", **resumed, metavar="CHECKPOINT", help=last)
    restart = "train anew in a work folder that has checkpoints of an earlier training"
    add("--restart", action="store_true", help=restart)
    extend = "with --resume: go by the config's learning rate and schedule, not the checkpoint's"
    add("--extend-schedule", action="store_true", help=extend)
    add("--time", metavar="30m", help="end after this time, with a checkpoint; 90s, 30m, 1h30m")
    add(
        "--auto",
        action="store_true",
        help="choose batch size, schedule and the like by trial steps",
    )
    stop = "end after so many validations in a row (5) without a better AP"
    add("--early-stopping", nargs="?", const=True, type=int, metavar="PATIENCE", help=stop)
    average = "validate and save a moving average of the weights, of this momentum (0.0002)"
    add("--ema", nargs="?", const=True, type=float, metavar="MOMENTUM", help=average)
    swap = "put ConvNeXt into the config's detector: convnext-t, s, b, l, xl, -v2-t, -dinov3-t ..."
    add("--backbone", metavar="NAME", help=swap)
    add("--from-scratch", action="store_true", help="do without the pretrained weights")


def run(args: argparse.Namespace) -> None:
    """Train."""
    from mmconvnext.engine import config as configs
    from mmconvnext.engine.runner import build_runner, check_new, resume_from
    from mmconvnext.training.signals import StopHook, read_time

    seconds = read_time(args.time) if args.time else None
    if args.resume and args.restart:
        raise UserError("--resume goes on with a training, --restart starts anew: choose one")
    cfg, notes = common.read_run_config(args)
    if not (args.resume or args.restart):
        check_new(cfg)
    if args.dataset:
        notes += common.use_dataset(cfg, args, "train")
    if args.from_scratch:
        dropped = configs.drop_pretrained(cfg)
        notes.append(f"from scratch: not loading {', '.join(dropped) or 'anything'}")
    if args.amp:
        configs.use_amp(cfg)
    if args.shard:
        cfg.shard = True
    if args.early_stopping is not None:
        configs.use_early_stopping(cfg, args.early_stopping)
    if args.ema is not None:
        configs.use_ema(cfg, args.ema)
    if args.auto:
        notes += choose_by_trial(cfg, args)
    if args.auto_scale_lr:
        configs.use_auto_scale_lr(cfg)
    if args.extend_schedule:
        if not args.resume:
            raise UserError("--extend-schedule needs --resume: what is to be extended")
        cfg.resume_schedule = "config"
    if args.resume:
        notes += resume_from(cfg, args.resume)
    runner = build_runner(cfg, ("train", "val"), notes)
    stop = StopHook(seconds, resume_command(cfg, args))
    runner.register_hook(stop)
    with stop.signals():
        runner.train()


def resume_command(cfg: Config, args: argparse.Namespace) -> str:
    """The command that goes on with a training, by the config that it leaves in its work folder."""
    started = {
        "none": "",
        "pytorch": f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', 1)} -m ",
        "slurm": "srun ",
        "mpi": f"mpirun -n {os.environ.get('OMPI_COMM_WORLD_SIZE', 1)} ",
    }
    words = [str(Path(cfg.work_dir, Path(cfg.filename).name)), "--work-dir", cfg.work_dir]
    words += ["--launcher", args.launcher] * (args.launcher != "none")
    words += ["--time", args.time] * bool(args.time)
    return f"{started[args.launcher]}mmconvnext train {shlex.join(words)} --resume"


def choose_by_trial(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Do what ``--auto`` asks for, with lines for the log to come."""
    from mmconvnext.engine.auto import choose

    for name in ("resume", "auto_scale_lr"):
        if getattr(args, name):
            raise UserError(
                f"--auto with --{name.replace('_', '-')}: it scales the learning rate itself, and "
                "a training goes on as it began: give the --cfg-options that --auto printed then"
            )
    return choose(cfg)
