"""Inspect and convert files of ConvNeXt weights, list the zoo, verify the weights of a config."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict

from mmconvnext.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, action: Callable[[argparse.Namespace], None], help: str):
        command = commands.add_parser(name, help=help)
        command.set_defaults(action=action)
        return command

    inspect = add("inspect", run_inspect, "layout, variant and counts; which configs fit")
    convert = add("convert", run_convert, "write our layout as safetensors")
    zoo = add("list", list_zoo, "the zoo: names, sources, licences, accuracy")
    verify = add("verify", run_verify, "build a config's model and load its weights")
    for command in (inspect, convert):
        command.add_argument("source", help="a path, a URL, timm://, hf:// or torchvision://")
        command.add_argument("--prefix", help="which of several backbones in the file")
        command.add_argument("--ema", action="store_true", help="the averaged weights of the file")
    inspect.add_argument("--json", metavar="FILE", help="write it to a file, too")
    convert.add_argument("out", metavar="OUT.safetensors")
    convert.add_argument("--force", action="store_true", help="replace OUT")
    facts = "a part of any fact: nano, timm://, dinov3, ..."
    zoo.add_argument("pattern", nargs="?", default="", help=facts)
    common.add_config(verify, "model.backbone.init_cfg.checkpoint=timm://convnext_tiny.fb_in22k")


def run(args: argparse.Namespace) -> None:
    """Run one of the four."""
    args.action(args)


def run_inspect(args: argparse.Namespace) -> None:
    """Print what a file is."""
    from mmconvnext.analysis import inspection
    from mmconvnext.compat.config_names import config_dir
    from mmconvnext.weights.sources import fetch

    configs = sorted(config_dir().glob("*_coco.py"))
    found = inspection.inspect(fetch(args.source), configs, args.prefix, args.ema)
    print(inspection.inspection_table(found))
    if args.json:
        common.write_json(asdict(found), args.json)


def run_convert(args: argparse.Namespace) -> None:
    """Write a file in our layout."""
    from mmconvnext.compat.checkpoint_io import read_checkpoint
    from mmconvnext.weights.load import check_target, in_our_layout, write_safetensors
    from mmconvnext.weights.sources import fetch

    check_target(args.out, args.force)  # before a download
    checkpoint = read_checkpoint(fetch(args.source), mmap=True)
    tensors, notes = in_our_layout(checkpoint, args.source, args.prefix, args.ema)
    path = write_safetensors(args.out, tensors, notes, args.force)
    print(f"{notes['source_layout']} layout -> ours: {len(tensors)} tensors written to {path}")


def list_zoo(args: argparse.Namespace) -> None:
    """Print the zoo."""
    from mmconvnext.errors import UserError
    from mmconvnext.weights.zoo import published_table, read_zoo, zoo_table

    entries = [entry for entry in read_zoo() if entry.matches(args.pattern)]
    tables = [zoo_table(entries) if entries else "", published_table(args.pattern)]
    if not any(tables):
        raise UserError(f"no weights of the zoo have {args.pattern!r} in any of their facts")
    print("\n\n".join(filter(None, tables)))


def run_verify(args: argparse.Namespace) -> None:
    """Build a config's model and load what it names, without training."""
    from mmconvnext.weights.detector import verify_weights

    if not verify_weights(common.read_config(args)):
        print(f"{args.config} names no weights: its backbone is randomly initialised")
