"""Measure ours beside its peers, in one run, with the same weights and the same input."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from mmconvnext.cli.common import write_json
from mmconvnext.guard import main_guard

# For each command, its module in benchmarks, an old name, and what it is for. A module offers
# add_arguments(parser) and compare(args), and is imported only when its command is chosen.
COMMANDS = {
    "roofline": ("roofline", "machine", "how fast this machine multiplies and copies"),
    "backbone": ("backbone", None, "ConvNeXt of several libraries, in inference and in training"),
    "detector": ("detector", None, "whole detectors, from images to detections"),
    "pruned": ("pruned", None, "trained detectors beside each other, as pruned and unpruned"),
    "deploy": ("deploy", None, "exported detectors in their runtimes, beside PyTorch"),
    "table3": ("table3", None, "the paper's table 3, counted, and timed where there are images"),
    "scaling": (
        "scaling",
        "growth",
        "how time and memory grow with input, batch, model, processes",
    ),
    "data": ("data", None, "pipelines of training data, from files to tensors"),
    "eval": ("evaluation", None, "COCO's metrics for boxes and masks, at the scale of val2017"),
    "plan": ("plan", None, "a plan for 1 to 512 GPUs: batch, learning rate, memory, time"),
    "startup": ("startup", None, "importing the package, and the tools' --help"),
}


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, old, purpose) in COMMANDS.items():
        aliases = [old] if old in arguments[:1] else []  # works, but is not listed
        described = f"Measure {purpose}."
        command = commands.add_parser(name, aliases=aliases, help=purpose, description=described)
        command.set_defaults(module=module)
        if {name, old} & {*arguments[:1]}:
            _module("comparison").add_common_arguments(command)
            _module(module).add_arguments(command)
    return parser.parse_args(arguments)


def _module(module: str) -> Any:
    return importlib.import_module(f"benchmarks.{module}")


def run(args: argparse.Namespace) -> None:
    """Run the comparison that was chosen, print what came out and write it."""
    report = _module(args.module).compare(args)
    print(report.text(args.markdown))
    if args.json:
        write_json(report.to_json(), args.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parse_args(sys.argv[1:] if arguments is None else arguments)
    return main_guard(run)(args)


if __name__ == "__main__":
    sys.exit(main())
