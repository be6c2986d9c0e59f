"""Train a detector."""

from __future__ import annotations

import argparse
import sys

from mmconvnext.engine import cli


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_run_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="train in mixed precision")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a value from the last one in the work folder",
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="do without the pretrained weights"
    )
    return parser.parse_args()


@cli.main_guard
def main() -> None:
    """Train."""
    args = parse_args()
    from mmconvnext.engine import config as configs
    from mmconvnext.engine.runner import build_runner, resume_from

    cli.export_local_rank(args.local_rank)
    cfg = configs.load_config(args.config)
    notes = configs.merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    configs.set_work_dir(cfg, args.work_dir)
    if args.data_root:
        configs.set_data_root(cfg, args.data_root)
    if args.from_scratch:
        dropped = configs.drop_pretrained(cfg)
        notes.append(f"from scratch: not loading {', '.join(dropped) or 'anything'}")
    if args.amp:
        configs.use_amp(cfg)
    if args.auto_scale_lr:
        configs.use_auto_scale_lr(cfg)
    if args.resume:
        notes += resume_from(cfg, args.resume)
    build_runner(cfg, ("train", "val"), notes).train()


if __name__ == "__main__":
    sys.exit(main())
