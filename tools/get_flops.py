"""Count parameters and FLOPs of a detector as in the paper; needs no data, weights or GPU."""

from __future__ import annotations

import argparse
import sys

from mmconvnext.engine.cli import add_cfg_options, main_guard


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the padded image in pixels; default: the paper's, 800 1280",
    )
    add_cfg_options(parser, "model.backbone.arch=small")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    return parser.parse_args()


@main_guard
def main() -> None:
    """Count and print."""
    args = parse_args()
    from mmconvnext.analysis import flops
    from mmconvnext.analysis.cost import cost_table, write_cost
    from mmconvnext.engine.config import load_config, merge_options

    cfg = load_config(args.config)
    for note in merge_options(cfg, args.cfg_options):
        print(note, file=sys.stderr)
    cost = flops.count_config(cfg, tuple(args.shape or flops.SHAPE))
    print(cost_table(cost))
    if args.json:
        write_cost(cost, cfg, args.json)
        print(f"written to {args.json}")


if __name__ == "__main__":
    sys.exit(main())
