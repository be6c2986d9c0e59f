"""Serve a detector as a local page: drop a picture, move the threshold, compare checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmconvnext.cli import common
from mmconvnext.deploy.sessions import is_exported
from mmconvnext.serving import Served, served_by, server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    other = "; or a training's work folder, or a file of `mmconvnext export`"
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=20", other)
    add = parser.add_argument
    text = "the detector's; a work folder has one of the best mask AP, or else the last"
    add("checkpoint", nargs="?", help=text)
    other = "another one of the same config, or another work folder, to show beside it"
    add("--compare", metavar="CHECKPOINT", help=other)
    server.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C; who is there then is answered."""

    def load_all() -> list[Served]:
        served = [load(args, args.config, args.checkpoint)]
        if args.compare:
            is_run = Path(args.compare).is_dir()
            other = (args.compare, None) if is_run else (args.config, args.compare)
            served.append(load(args, *other))
        return served

    server.run(args, load_all)


def load(args: argparse.Namespace, config: str, checkpoint: str | None) -> Served:
    """Load a detector of a work folder, of a config and a checkpoint, or an exported file.

    That has all that it needs: torch and MMDetection are not imported for it.
    """
    if is_exported(file := checkpoint or config):
        from mmconvnext.runtime import Detector as Exported

        detector = Exported(file, batch=args.max_batch, trusted=args.allow_imports)
        return served_by(Path(file).stem, detector)
    from mmconvnext.engine.run_dir import find_detector
    from mmconvnext.inference.detector import Detector

    config, checkpoint = find_detector(config, checkpoint)
    options = argparse.Namespace(**{**vars(args), "config": config})
    detector = Detector(common.read_config(options), checkpoint, batch=args.max_batch)
    return served_by(Path(checkpoint).stem, detector)
