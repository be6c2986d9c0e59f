"""Train steps of the way from ResNet to ConvNeXt by one recipe, and draw AP against FLOPs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmconvnext.cli.demo import run_command
from mmconvnext.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add = parser.add_argument
    add("--costs", action="store_true", help="print what each step costs, and train nothing")
    add("--steps", nargs="+", metavar="STEP", help="resnet ... separate_downsampling; default: all")
    add("--regime", choices=["tiny", "base"], default="tiny", help="default: %(default)s")
    add("--seeds", nargs="+", type=int, default=[0], help="a training each; default: 0")
    on = "the synthetic shapes, or COCO by the configs in roadmap/; default: %(default)s"
    add("--data", choices=["shapes", "coco"], default="shapes", help=on)
    add("--data-root", help="its folder; default: data/shapes, where it is made, or data/coco")
    width = "divide all channels; default: 4 for shapes, 1 for COCO"
    add("--divide-width", type=int, metavar="N", help=width)
    add("--iterations", type=int, metavar="N", help="of shapes; default: the config's 1,050")
    add("--out", default="roadmap", help="folder of the trainings, table.txt and figure.png")


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet, then write table and figure."""
    from mmconvnext.analysis import walk
    from mmconvnext.analysis.cost import count_config
    from mmconvnext.engine.config import load_config
    from mmconvnext.models.roadmap import STEPS, design_of

    if args.costs:
        print(walk.costs(args.regime))
        return
    if args.iterations and args.data == "coco":
        raise UserError("--iterations is of --data shapes; COCO's recipe has 36 epochs")
    for step in args.steps or ():
        design_of(step, args.regime)  # a wrong one is an error before the first training
    out, outcomes = Path(args.out), []
    check_recipe(args, out / "recipe.json")
    root = args.data_root or f"data/{args.data}"
    if args.data == "shapes":
        from mmconvnext.data import generate_shapes

        generate_shapes(root, num_train=2000, num_val=200)
    for step in (step for step in STEPS if step in (args.steps or STEPS)):
        path = out / step / "config.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config_text(args, step), encoding="utf-8")
        found = [result_of(args, path, seed, root) for seed in args.seeds]
        box, mask = ([100 * metrics[f"{kind}_mAP"] for metrics in found] for kind in walk.KINDS)
        outcomes.append(walk.Outcome(step, count_config(load_config(str(path))).flops, box, mask))
    text = walk.table(outcomes, args.regime)
    (out / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    walk.figure(outcomes, args.regime).savefig(out / "figure.png", dpi=120)
    print(f"{text}\nwritten to {out}: table.txt and figure.png")


def check_recipe(args: argparse.Namespace, path: Path) -> None:
    """Write what all trainings of a folder share, or raise UserError where others lie there."""
    recipe = {
        name: getattr(args, name) for name in ("regime", "data", "divide_width", "iterations")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != recipe:
        raise UserError(
            f"{path.parent} has trainings of another recipe, {path.read_text(encoding='utf-8')}; "
            "give another folder by --out"
        )
    path.write_text(json.dumps(recipe), encoding="utf-8")


def config_text(args: argparse.Namespace, step: str) -> str:
    """The config of one step."""
    from mmconvnext.models.roadmap import STEPS, design_of

    divisor = args.divide_width or (4 if args.data == "shapes" else 1)
    base = f"roadmap/mask_rcnn_{args.regime}_{STEPS.index(step):02}_{step}"
    if args.data == "shapes":
        base = "mask_rcnn_convnext_shapes"
    width = max(8, design_of(step, args.regime).width // divisor)
    channels = list(design_of(step, args.regime, width=width).out_channels)
    lines = [f'_base_ = "mmconvnext::{base}"', f"model = dict(neck=dict(in_channels={channels}),"]
    if args.data == "shapes" or divisor > 1:
        lines.append(
            f"    backbone=dict(_delete_=True, type='ModernizedResNet', step={step!r}, "
            f"regime={args.regime!r}, switches=dict(width={width}))"
        )
    return "\n".join([*lines, ")", ""])


def result_of(args: argparse.Namespace, config: Path, seed: int, root: str) -> dict:
    """Metrics of one training, which is done unless its result is there."""
    from mmengine.runner import find_latest_checkpoint

    folder = config.parent / f"seed_{seed}"
    result = folder / "result.json"
    if not result.is_file():
        common = [config, "--data-root", root, "--work-dir", folder]
        options = ["--cfg-options", f"randomness.seed={seed}"]
        if args.iterations:
            names = ("train_cfg.max_iters", "param_scheduler.1.end")
            options += [f"{name}={args.iterations}" for name in names]
            options.append(f"train_cfg.val_begin={args.iterations + 1}")
        run_command("train", [*common, *options], folder / "train.log")
        checkpoint = find_latest_checkpoint(str(folder))
        run_command("test", [config, checkpoint, *common[1:]], folder / "test.log")
    return json.loads(result.read_text(encoding="utf-8"))["metrics"]
