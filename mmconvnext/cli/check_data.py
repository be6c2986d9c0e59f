"""Check annotation files and pictures: what is wrong, and what would be repaired."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmconvnext.cli import common

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "test_dataloader.dataset.ann_file=a.json", "; or a COCO .json file")
    common.add_data_arguments(parser)
    add = parser.add_argument
    add("--images", metavar="DIR", help="pictures of a .json file; default: they are not read")
    add("--oracle", action="store_true", help="evaluate the ground truth itself: AP must be 100")
    add("--json", metavar="FILE", help="write all findings to a file, too")


def run(args: argparse.Namespace) -> None:
    """Check, print a line for each kind of finding, and raise if a file is refused."""
    from mmconvnext.data import prepare
    from mmconvnext.data.own import SPLITS
    from mmconvnext.data.paths import check_data_paths
    from mmconvnext.data.prepare import CheckOptions, cache_folder
    from mmconvnext.engine.own_data import use_dataset
    from mmconvnext.errors import UserError

    if args.config.endswith(".json"):
        if args.oracle or args.data_root or args.dataset:
            raise UserError(
                "--oracle, --data-root and --dataset need a config, not an annotation file"
            )
        options = CheckOptions(args.data_checks or "repair", pictures=True)
        data = prepare.check_one(Path(args.config), args.images and Path(args.images), options)
    else:
        cfg = common.read_config(args)
        common.set_data(cfg, args)
        if args.dataset:
            folder = cache_folder() / "dataset"
            chosen = use_dataset(cfg, Path(args.dataset), folder, trains=False)
            print(*chosen.notes, chosen.table, sep="\n")
        splits = chosen.splits if args.dataset else SPLITS
        check_data_paths(cfg, splits)
        data = prepare.prepare_data(cfg, splits)
    for line in data.notes:
        print(line)
    if args.json:
        common.write_json({"files": data.report}, args.json)
    data.raise_refusals()
    # a file of several splits is checked, and reported, for each
    files = {Path(each["file"]).resolve() for each in data.report}
    print(f"annotation files that can be used: {len(files)}")
    if args.oracle:
        _evaluate_oracle(cfg)


def _evaluate_oracle(cfg: Config) -> None:
    from mmconvnext.errors import DataError
    from mmconvnext.evaluation.oracle import oracle_metrics
    from mmconvnext.evaluation.tables import ap_table

    metrics = oracle_metrics(cfg)
    print(ap_table(metrics))
    ap = {name: value for name, value in metrics.items() if name.endswith("_mAP")}
    if not any(value >= 0 for value in ap.values()):
        raise DataError(f"the test has no AP of boxes or masks of any object, but {metrics}")
    low = {name: value for name, value in ap.items() if 0 <= value < 1}
    if low:
        name, value = next(iter(low.items()))
        raise DataError(
            f"the ground truth itself has {name}={value:.3f}, not 1: data, pipeline or metric of "
            "the config lose objects"
        )
    print("passed: the ground truth itself has AP 100")
