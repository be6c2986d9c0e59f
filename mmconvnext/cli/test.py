"""Evaluate a detector: box and mask AP."""

from __future__ import annotations

import argparse

from mmconvnext.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_run_arguments(parser)
    kind = common.existing_checkpoint
    parser.add_argument("checkpoint", type=kind, help="checkpoint of a detector")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions to a pickle file")
    parser.add_argument("--show-dir", help="draw predictions beside the ground truth into a folder")
    parser.add_argument("--tta", action="store_true", help="test with flipped images, too")
    parser.add_argument("--report", action="store_true", help="write report.html, see report")
    parser.add_argument("--classwise", action="store_true", help="AP of each class, too")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the table and write ``result.json``."""
    from mmengine.dist import is_main_process

    from mmconvnext.engine import config as configs
    from mmconvnext.engine.runner import check_checkpoint
    from mmconvnext.engine.testing import run_test
    from mmconvnext.evaluation.tables import ap_table
    from mmconvnext.weights.detector import checkpoint_classes

    cfg, notes = common.read_run_config(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.dataset:
        check_checkpoint(args.checkpoint)
        notes += common.use_dataset(cfg, args, "test", checkpoint_classes(args.checkpoint))
    if args.show_dir:
        configs.draw_to(cfg, args.show_dir)
    if args.classwise:
        configs.ask_for_classwise(cfg)
    if args.tta:
        configs.use_tta(cfg)
    if args.out:
        configs.dump_predictions(cfg, args.out)
    metrics, path = run_test(cfg, notes, args.report)
    if is_main_process():
        print(ap_table(metrics))
        print(f"written to {path}")
        if args.report:
            from mmconvnext.report import write_report

            print(f"written to {write_report(path)}")
