"""Predict on pictures and write the objects for an annotation tool, to be corrected there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmconvnext.cli import common

FORMATS = ("labelstudio", "cvat", "labelme", "coco")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=20")
    add = parser.add_argument
    add("checkpoint", type=common.existing_checkpoint, help="checkpoint of a detector")
    add("images", metavar="IMAGES", help="folder of pictures")
    add("out", metavar="OUT", help="folder to write; absent or empty")
    add("--to", choices=FORMATS, required=True, help="format to write")
    add("--score-thr", type=float, default=0.3, help="least score of an object (default: 0.3)")
    tolerance = "how far a polygon may be from its mask, in pixels (default: 1)"
    add("--tolerance", type=float, default=1.0, metavar="PIXELS", help=tolerance)


def run(args: argparse.Namespace) -> int:
    """Predict and write; the exit code is 1 if a picture could not be used."""
    from mmconvnext.data.layouts import check_target, write_layout
    from mmconvnext.errors import DataError, UserError
    from mmconvnext.inference.detector import Detector
    from mmconvnext.inference.prelabel import predict

    images, out = Path(args.images), Path(args.out)
    if args.tolerance < 0 or not 0 <= args.score_thr <= 1:
        raise UserError("--tolerance must not be below 0, and --score-thr lie within 0 and 1")
    if not images.is_dir():
        raise DataError(f"there is no folder {images}")
    check_target(out)
    detector = Detector(common.read_config(args), args.checkpoint)
    split, faults = predict(detector, images, args.score_thr, args.tolerance)
    if not split.content["images"]:
        raise DataError(f"none of {len(faults)} pictures can be used: {faults[0]}")
    write_layout({"train": split}, args.to, out)
    found = split.content
    print(f"{len(found['images'])} pictures, {len(found['annotations'])} objects: {out}")
    for line in faults:
        print(f"left out: {line}", file=sys.stderr)
    return 1 if faults else 0
