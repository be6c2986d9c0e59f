"""Train steps of the way from ResNet to ConvNeXt by one recipe, and draw AP against FLOPs."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmconvnext.cli.common import OptionsAction
from mmconvnext.cli.demo import run_command
from mmconvnext.errors import UserError

if TYPE_CHECKING:
    from mmconvnext.analysis.walk import Outcome


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
    add("--image-size", type=int, metavar="N", help="of shapes in pixels; default: 160")
    options = {"nargs": "+", "action": OptionsAction, "metavar": "KEY=VALUE"}
    add("--cfg-options", **options, help="override settings in every training and test")
    add("--out", default="roadmap", help="folder of the trainings, table.txt and figure.png")


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet, then write table and figure."""
    from mmconvnext.analysis import walk
    from mmconvnext.models.roadmap import STEPS, design_of

    if args.costs:
        print(walk.costs(args.regime))
        return
    for name in ("iterations", "image_size"):
        if getattr(args, name) and args.data == "coco":
            raise UserError(f"--{name.replace('_', '-')} is of --data shapes, not of COCO's recipe")
    for step in args.steps or ():
        design_of(step, args.regime)  # a wrong one is an error before the first training
    out, steps = Path(args.out), [step for step in STEPS if step in (args.steps or STEPS)]
    check_recipe(args, out / "recipe.json")
    args.data_root = args.data_root or f"data/{args.data}"
    if args.data == "shapes":
        from mmconvnext.data import generate_shapes

        size = args.image_size or 160
        generate_shapes(args.data_root, num_train=2000, num_val=200, image_size=size)
    for step in steps:
        path = out / step / "config.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config_text(args, step), encoding="utf-8")
    jobs = [out / step / f"seed_{seed}" for seed in args.seeds for step in steps]
    jobs = [folder for folder in jobs if not (folder / "result.json").is_file()]
    start = time.monotonic()
    try:
        for done, folder in enumerate(jobs):
            minutes = (time.monotonic() - start) / 60
            left = f", about {minutes / done * (len(jobs) - done):.0f} minutes left" if done else ""
            print(f"training {done + 1} of {len(jobs)}: {folder}{left}", flush=True)
            train_and_test(args, folder)
    finally:  # of an interrupted walk, what is done
        print(f"{(time.monotonic() - start) / 60:.0f} minutes for the trainings of this run")
        write_outcomes(args, out, steps)


def write_outcomes(args: argparse.Namespace, out: Path, steps: list[str]) -> None:
    """Print and draw what the trainings gave that are done."""
    from mmconvnext.analysis import walk

    outcomes = [outcome_of(args, out / step) for step in steps]
    outcomes = [outcome for outcome in outcomes if outcome.box]
    if not outcomes:
        return
    text = walk.table(outcomes, args.regime)
    (out / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    walk.figure(outcomes, args.regime).savefig(out / "figure.png", dpi=90)
    print(f"{text}\nwritten to {out}: table.txt and figure.png")


def check_recipe(args: argparse.Namespace, path: Path) -> None:
    """Write what all trainings of a folder share, or raise UserError where others lie there."""
    names = ("regime", "data", "divide_width", "iterations", "image_size", "cfg_options")
    recipe = {name: getattr(args, name) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    # the file of an older release has not all of them
    if path.is_file() and dict.fromkeys(names) | json.loads(path.read_text("utf-8")) != recipe:
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


def train_and_test(args: argparse.Namespace, folder: Path) -> None:
    """Do the training of a folder, from its last checkpoint if there is one, and its test."""
    from mmengine.runner import find_latest_checkpoint

    config, seed = folder.parent / "config.py", folder.name.removeprefix("seed_")
    options = [f"{key}={value}" for key, value in (args.cfg_options or {}).items()]
    common = ["--data-root", args.data_root, "--work-dir", folder, "--cfg-options", *options]
    own = [f"randomness.seed={seed}"]
    if args.iterations:
        names = ("train_cfg.max_iters", "param_scheduler.1.end")
        own += [f"{name}={args.iterations}" for name in names]
        own.append(f"train_cfg.val_begin={args.iterations + 1}")
    run_command("train", [config, "--resume", *common, *own], folder / "train.log")
    checkpoint = find_latest_checkpoint(str(folder))
    tested = common if options else common[:-1]
    run_command("test", [config, checkpoint, *tested], folder / "test.log")


def outcome_of(args: argparse.Namespace, folder: Path) -> Outcome:
    """Read what those trainings of a step gave that are done."""
    from mmconvnext.analysis import walk
    from mmconvnext.analysis.flops import count_config
    from mmconvnext.engine.config import load_config, merge_options

    cfg = load_config(str(folder / "config.py"))
    merge_options(cfg, args.cfg_options)
    results = [folder / f"seed_{seed}" / "result.json" for seed in args.seeds]
    done = [path.read_text(encoding="utf-8") for path in results if path.is_file()]
    found = [json.loads(text)["metrics"] for text in done]
    box, mask = ([100 * metrics[f"{kind}_mAP"] for metrics in found] for kind in walk.KINDS)
    return walk.Outcome(folder.name, count_config(cfg).flops, box, mask)
