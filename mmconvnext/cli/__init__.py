"""ConvNeXt detectors for MMDetection: train and evaluate them, and look at what they are made of.

Each command is a module with ``add_arguments(parser)`` and ``run(args)``. None imports anything
large before the command line is read: ``--help`` and typos are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from mmconvnext import __version__
from mmconvnext.guard import main_guard

COMMANDS = (
    "train",
    "test",
    "replay",
    "predict",
    "export",
    "quantize",
    "prune",
    "serve",
    "report",
    "compare",
    "check-data",
    "convert-data",
    "prelabel",
    "weights",
    "classify",
    "flops",
    "make-shapes",
    "demo",
    "roadmap",
    "run",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser("mmconvnext", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"mmconvnext {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"mmconvnext.cli.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the process; return the exit code."""

    def run() -> int | None:
        args = build_parser().parse_args(arguments)
        return args.run(args)

    return main_guard(run)()
