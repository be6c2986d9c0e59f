"""Predict on pictures and videos: draw them, write what was found as COCO and CSV."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from mmconvnext.cli import common
from mmconvnext.deploy.sessions import SUFFIXES
from mmconvnext.errors import UserError

CHECKPOINTS = (".pth", ".pt", ".safetensors", *SUFFIXES.values())  # how their names end
KINDS = ("pictures", "coco", "csv")
DEFAULT_SCORE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=20", "; or a training's work folder")
    inputs = "the detector's checkpoint, after a config; then pictures, videos, folders, patterns "
    inputs += "('a/**/*.jpg'), URLs, 'camera'"
    parser.add_argument("inputs", nargs="+", metavar="[CHECKPOINT] INPUT", help=inputs)
    add = parser.add_argument
    add("--out", default="predictions", help="folder to write; absent or empty (%(default)s)")
    add("--to", nargs="+", choices=KINDS, default=KINDS, help="what to write; default: all")
    threshold = f"least score of an object, or of those of a class (default: {DEFAULT_SCORE})"
    add("--threshold", nargs="+", default=(), metavar="[CLASS=]SCORE", help=threshold)
    add("--classes", nargs="+", metavar="CLASS", help="the only classes to write; default: all")
    add("--tta", action="store_true", help="predict on flipped pictures, too")
    add("--tile", type=int, metavar="SIZE", help="cut pictures into tiles, of this side in pixels")
    batch = "pictures or tiles at a time; default: the config's, as in a test"
    add("--batch", type=int, metavar="N", help=batch)


def run(args: argparse.Namespace) -> int:
    """Predict and write; the exit code is 1 if a picture could not be used."""
    from rich.console import Console
    from rich.progress import track

    from mmconvnext.data.layouts import check_target
    from mmconvnext.engine.run_dir import find_detector
    from mmconvnext.inference.detector import Detector
    from mmconvnext.inference.inputs import count_frames, find_inputs, frames
    from mmconvnext.inference.outputs import Outputs

    score, by_class = read_thresholds(args.threshold)
    checkpoint, sources, out = None, list(args.inputs), Path(args.out)
    if not Path(args.config).is_dir() or sources[0].endswith(CHECKPOINTS):
        checkpoint = sources.pop(0)
    if not sources:
        raise UserError(f"nothing to predict on: give pictures after {args.config} {checkpoint}")
    args.config, checkpoint = find_detector(args.config, checkpoint)
    inputs = find_inputs(sources)
    check_target(out)
    settings = {"tta": args.tta, "tile": args.tile, "batch": args.batch}
    detector = Detector(common.read_config(args), checkpoint, **settings)
    check_classes([*by_class, *(args.classes or ())], detector.classes)
    faults: list[str] = []
    console, total = Console(stderr=True), count_frames(inputs)
    pictures = track(frames(inputs, faults), "predicting", total, console=console)
    with Outputs(out, args.to, detector.classes) as outputs:
        for prediction in detector.predict(pictures, faults):
            outputs.write(prediction.above(score, by_class, args.classes))
    print(f"{outputs.pictures} pictures, {outputs.objects} objects: {out}")
    for line in faults:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if faults else 0


def read_thresholds(values: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Read ``SCORE`` and ``CLASS=SCORE``: the score for all classes, and those for some."""
    scores: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            scores[name] = float(number)
        except ValueError:
            scores[name] = math.nan
        if not 0 <= scores[name] <= 1:
            raise UserError(
                f"--threshold: {value!r} is no score within 0 and 1, alone or as CLASS=SCORE; what "
                "is no option goes before it"
            )
    return scores.pop("", DEFAULT_SCORE), scores


def check_classes(names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise UserError with the classes of a detector that has no class of a given name."""
    from mmconvnext.data.names import did_you_mean, name_list

    for name in names:
        if name not in classes:
            raise UserError(
                f"the detector has no class {name!r}{did_you_mean(name, classes)}; it has "
                f"{len(classes)}: {name_list(classes)}"
            )
