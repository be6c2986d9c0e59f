"""Make *shapes*, the synthetic data set of the demo."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("out", help="folder of the data set")
    parser.add_argument("--train", type=int, default=400, help="images to train on")
    parser.add_argument("--val", type=int, default=80, help="images to evaluate on")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace shapes with other parameters"
    )


def run(args: argparse.Namespace) -> None:
    """Generate and count."""
    from mmconvnext.data import generate_shapes
    from mmconvnext.evaluation.tables import dataset_table

    files = generate_shapes(
        args.out,
        num_train=args.train,
        num_val=args.val,
        image_size=args.size,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    print(dataset_table(files))
