"""Count parameters and FLOPs of any detector, as in the paper; needs no data, weights or GPU."""

from __future__ import annotations

import argparse

from mmconvnext.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.backbone.arch=small")
    pixels = "height and width of the padded image in pixels; default: the paper's, 800 1280"
    parser.add_argument("--shape", type=int, nargs=2, metavar=("H", "W"), help=pixels)
    parser.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")


def run(args: argparse.Namespace) -> None:
    """Count and print."""
    from mmconvnext.analysis.flops import SHAPE, count_config

    cfg = common.read_config(args)
    cost = count_config(cfg, tuple(args.shape or SHAPE))
    print(cost.table())
    if args.json:
        common.write_json(cost.info(cfg), args.json)
