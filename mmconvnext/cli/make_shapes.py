"""Make *shapes*, the synthetic data set of the demo."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add = parser.add_argument
    add("out", help="folder of the data set")
    add("--train", type=int, default=400, help="images to train on")
    add("--val", type=int, default=80, help="images to evaluate on")
    add("--size", type=int, default=160, help="side of the images in pixels")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace shapes with other parameters")


def run(args: argparse.Namespace) -> None:
    """Generate and count."""
    from mmconvnext.data import generate_shapes
    from mmconvnext.evaluation.tables import dataset_table

    sizes = {"num_train": args.train, "num_val": args.val, "image_size": args.size}
    files = generate_shapes(args.out, **sizes, seed=args.seed, overwrite=args.overwrite)
    print(dataset_table(files))
