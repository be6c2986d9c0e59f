"""Do a training step again whose loss or gradient was not finite: is it still so, and why?"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmconvnext.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("file", type=Path, help="not_finite/iter_N.json of a work folder")
    other = "weights in place of those of the step (of which those of the last fault are kept)"
    parser.add_argument("--checkpoint", type=common.existing_checkpoint, metavar="FILE", help=other)


def run(args: argparse.Namespace) -> int:
    """Print losses and gradients of each batch; 1 where some are not finite."""
    from mmconvnext.engine.replay import read_record, replay

    finite = True
    for line, is_finite in replay(read_record(args.file), args.checkpoint):
        print(line, flush=True)
        finite &= is_finite
    return int(not finite)
