"""Take channels and blocks out of a detector's ConvNeXt, for a share of its multiply-adds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from mmconvnext.cli import common

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmconvnext.analysis.flops import Cost, Part

BATCHES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    example = "train_dataloader.batch_size=4"
    common.add_config(parser, example, "; or a training's work folder")
    common.add_data_arguments(parser, own=False)
    add = parser.add_argument
    add("checkpoint", nargs="?", help="of the detector; default: the work folder's best")
    share = "share of the backbone's multiply-adds to be left, such as 0.7"
    add("--keep", type=float, required=True, metavar="SHARE", help=share)
    by = "what channels and blocks are chosen by: the loss of training batches (taylor, the "
    by += "default), or norms of weights"
    add("--importance", choices=["taylor", "magnitude"], default="taylor", help=by)
    count = "training batches for taylor, at most (%(default)s)"
    add("--batches", type=int, default=BATCHES, metavar="N", help=count)
    add("--out", help="folder to write; default: pruned_SHARE beside the checkpoint")
    add("--test", action="store_true", help="evaluate the pruned detector, untrained, too")


def run(args: argparse.Namespace) -> None:
    """Prune; write the config and the checkpoint; print what is left and how to go on."""
    from mmconvnext.analysis.flops import count_config
    from mmconvnext.deploy import prune
    from mmconvnext.engine import pruning
    from mmconvnext.inference.detector import Detector

    base, out = _places(args)
    cfg = common.read_config(args)
    common.set_data(cfg, args)
    detector = Detector(deepcopy(cfg), args.checkpoint)
    model, backbone = detector.model, prune.backbone_of(detector.model)
    prune.check_keep(backbone, args.keep)
    before = count_config(cfg)
    if args.importance == "magnitude":
        scores = prune.magnitude(backbone)
    else:
        losses = pruning.training_losses(cfg, model, args.batches)
        scores = prune.taylor(model, losses)
    kept = prune.choose(backbone, scores, args.keep)
    state = prune.prune_state(model.cpu().state_dict(), kept, "backbone.")
    arch = prune.arch_of(backbone, kept)
    pruned = pruning.retraining_config(cfg, arch, out)
    after = count_config(pruned)
    data = {"classes": (*detector.classes,), "palette": [*map(tuple, detector.palette)]}
    about = {"checkpoint": Path(args.checkpoint).name, "keep": args.keep, "arch": arch}
    meta = {"dataset_meta": data, "pruned": {**about, "importance": args.importance}}
    share = _of_backbone(after).flops / _of_backbone(before).flops
    config, path = pruning.write_pruned(out, pruned, base, share, state, meta)
    print(table(before, after, backbone.hidden, arch["hidden"]))
    print(f"multiply-adds are counted, not timed; {after.protocol}")
    print(f"written to {out}: {config.name} and {path.name}")
    print(f"its AP without more training: mmconvnext test {config} {path}")
    print(f"train it on: mmconvnext train {config} --work-dir {out / 'train'}")
    if args.test:
        _test(pruned, path, out)


def _places(args: argparse.Namespace) -> tuple[str | None, Path]:
    """The config to inherit from, if any, and the folder to write; the arguments are completed."""
    from mmconvnext.data.layouts import check_target
    from mmconvnext.engine.run_dir import find_detector
    from mmconvnext.errors import UserError
    from mmconvnext.training.checkpoints import check_writable

    if args.batches < 1:
        raise UserError(f"--batches {args.batches} must be 1 or more")
    is_run = Path(args.config).is_dir()
    args.config, args.checkpoint = find_detector(args.config, args.checkpoint)
    out = Path(args.out or Path(args.checkpoint).parent / f"pruned_{args.keep:g}")
    check_target(out)
    check_writable(out)
    # the config of a work folder is complete, and may be gone one day
    return None if is_run else args.config, out


def table(
    before: Cost, after: Cost, full: Sequence[Sequence[int]], left: Sequence[Sequence[int]]
) -> str:
    """Format costs, and blocks and hidden channels of each stage, before and after."""
    from mmconvnext.evaluation.tables import format_table

    costs = {"backbone": map(_of_backbone, (before, after)), "detector": (before, after)}
    counts = []
    for name, (old, new) in costs.items():
        counts += [
            (f"{name}, multiply-adds, G", old.flops / 1e9, new.flops / 1e9, ".1f"),
            (f"{name}, parameters, M", old.params / 1e6, new.params / 1e6, ".1f"),
            (f"{name}, float32 weights, MiB", old.params / 2**18, new.params / 2**18, ".1f"),
        ]
    for stage, (old, new) in enumerate(zip(full, left, strict=True), 1):
        counts.append((f"stage {stage}, blocks", len(old), len(new), "d"))
        counts.append((f"stage {stage}, hidden channels", sum(old), sum(new), "d"))
    rows = [[name, f"{a:{how}}", f"{b:{how}}", f"{b / a:.1%}"] for name, a, b, how in counts]
    return format_table([["", "before", "after", "left"], *rows])


def _of_backbone(cost: Cost) -> Part:
    return next(part for part in cost.parts if part.name == "backbone")


def _test(cfg: Config, checkpoint: Path, out: Path) -> None:
    from mmconvnext.engine.testing import run_test
    from mmconvnext.evaluation.tables import ap_table

    cfg.load_from, cfg.work_dir, cfg.launcher = str(checkpoint), str(out / "test"), "none"
    metrics, path = run_test(cfg)
    print(f"{ap_table(metrics)}\nwritten to {path}")
