"""Write a detector as a file for ONNX Runtime, OpenVINO or torch.export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmconvnext.cli import common
from mmconvnext.deploy.sessions import SUFFIXES

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    from mmconvnext.inference.detector import Detector

TENSORRT = "tensorrt"  # an ONNX file, and an engine of it where that can be built


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=50", "; or a training's work folder")
    add = parser.add_argument
    add("checkpoint", nargs="?", help="of the detector; default: the work folder's best")
    add("--to", choices=[*SUFFIXES, TENSORRT], default="onnx", help="what to write (%(default)s)")
    add("--out", help="file; default: beside the checkpoint, with its name")
    add("--pasted", action="store_true", help="masks of the picture's size, not 28 x 28 in boxes")
    size = "for tensorrt: of all pictures, in pixels"
    add("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help=size)
    add("--fp16", action="store_true", help="for tensorrt: build the engine with half precision")
    check = "pictures, folders or patterns on which the file must find what the checkpoint does"
    add("--check", nargs="+", metavar="INPUT", help=check)


def run(args: argparse.Namespace) -> int:
    """Export and compare; the exit code is 1 where the file differs from the checkpoint."""
    from mmconvnext.analysis.parity import compare
    from mmconvnext.deploy.export import export, size_of
    from mmconvnext.deploy.tensorrt import fix_size
    from mmconvnext.inference.detector import Detector
    from mmconvnext.inference.inputs import find_inputs, frames

    out = find_output(args, f"--to {args.to}", SUFFIXES.get(args.to, SUFFIXES["onnx"]))
    _check_tensorrt(args)
    detector, graph, meta = load_graph(args, common.read_config(args), args.pasted)
    if args.size:
        fix_size(graph, tuple(args.size))
    export(graph, out, meta)
    print(f"written to {out}: {size_of(out) / 2**20:.0f} MiB")
    if args.to == TENSORRT:
        _build_engine(args, out)
    if not args.check:
        return 0
    cfg = common.read_config(args)
    cfg.allow_imports = True  # it was written here
    exported = Detector(cfg, str(out), batch=1)
    faults: list[str] = []
    parity = compare(detector, exported, frames(find_inputs(args.check), faults))
    print("\n".join([*faults, str(parity)]))
    return 0 if parity.equal and not faults else 1


def find_output(args: argparse.Namespace, option: str, suffix: str, mark: str = "") -> Path:
    """Complete ``args`` with the config and checkpoint of a work folder; the file to write.

    Args:
        args: with ``config``, ``checkpoint`` and ``out``.
        option: of the command line, that asks for ``suffix``.
        suffix: that the file's name ends in.
        mark: follows the checkpoint's name, where ``out`` names no file.
    """
    from mmconvnext.engine.run_dir import find_detector
    from mmconvnext.errors import UserError

    args.config, args.checkpoint = find_detector(args.config, args.checkpoint)
    weights = Path(args.checkpoint)
    out = Path(args.out or weights.with_name(f"{weights.stem}{mark}{suffix}"))
    if out.suffix != suffix:
        raise UserError(f"--out {out}: {option} writes a file whose name ends in {suffix}")
    return out


def load_graph(
    args: argparse.Namespace, cfg: Config, pasted: bool = False
) -> tuple[Detector, nn.Module, dict[str, Any]]:
    """The detector of ``args.checkpoint``, its graph, and what is written into an exported file."""
    from mmconvnext.deploy.settings import graph_of
    from mmconvnext.engine.provenance import run_info
    from mmconvnext.inference.detector import Detector

    detector = Detector(cfg, args.checkpoint, batch=1)
    graph = graph_of(detector.model, cfg, pasted)
    info = run_info(cfg)
    meta = {
        "classes": [*detector.classes],
        "mask_threshold": cfg.model.test_cfg.get("rcnn", {}).get("mask_thr_binary"),
        "precision": "f32",
        "checkpoint": Path(args.checkpoint).name,
        "config": cfg.pretty_text,
        **{key: info[key] for key in ("mmconvnext", "git_revision", "python", "packages")},
    }
    return detector, graph, meta


def _check_tensorrt(args: argparse.Namespace) -> None:
    """Refuse what only TensorRT's files have, and what they do not have."""
    from mmconvnext.errors import UserError

    if args.to == TENSORRT:
        if args.size is None:
            raise UserError(
                "--to tensorrt needs the pictures' --size HEIGHT WIDTH, such as 800 1216"
            )
        if min(args.size) < 1:
            raise UserError(f"--size {args.size[0]} {args.size[1]} must be 1 or more")
        if args.check:
            raise UserError("--check: TensorRT is not run here; --to onnx can be checked")
    elif args.size or args.fp16:
        raise UserError(f"--size and --fp16 are for --to tensorrt, not --to {args.to}")


def _build_engine(args: argparse.Namespace, out: Path) -> None:
    from mmconvnext.deploy import tensorrt
    from mmconvnext.errors import CheckpointError

    tensorrt.check_operators(out)
    print(f"all its operators are documented for TensorRT ({tensorrt.SOURCE})")
    try:
        print(f"written to {tensorrt.build_engine(out, args.size, args.fp16)}")
    except (ImportError, CheckpointError) as error:
        print(
            f"no engine was built and nothing was run by TensorRT: {error}; where it can be, run:"
        )
        print(tensorrt.command(out, args.size, args.fp16))
