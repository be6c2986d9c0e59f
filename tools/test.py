"""Evaluate a detector: box and mask AP."""

from __future__ import annotations

import argparse
import sys

from mmconvnext.engine import cli


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint of a detector")
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions to a pickle file")
    parser.add_argument("--show-dir", help="draw predictions beside the ground truth into a folder")
    parser.add_argument("--tta", action="store_true", help="test with mirrored images, too")
    parser.add_argument("--classwise", action="store_true", help="AP of each class, too")
    return parser.parse_args()


@cli.main_guard
def main() -> None:
    """Evaluate."""
    args = parse_args()
    from mmengine.dist import is_main_process

    from mmconvnext.engine import config as configs
    from mmconvnext.engine.runner import build_runner
    from mmconvnext.evaluation import report

    cli.export_local_rank(args.local_rank)
    report.check_dump_path(args.out)
    cfg = configs.load_config(args.config)
    notes = configs.merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.load_from, cfg.resume = args.checkpoint, False
    configs.set_work_dir(cfg, args.work_dir)
    if args.data_root:
        configs.set_data_root(cfg, args.data_root)
    if args.show_dir:
        report.draw_to(cfg, args.show_dir)
    if args.classwise:
        report.ask_for_classwise(cfg)
    if args.tta:
        configs.use_tta(cfg)
    runner = build_runner(cfg, ("test",), notes)
    if args.out:
        report.dump_predictions(runner, args.out)
    metrics = report.with_missing_ap(runner.test(), cfg)
    if is_main_process():
        path = report.write_result(metrics, cfg, args.checkpoint, runner.log_dir)
        print(report.ap_table(metrics))
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
