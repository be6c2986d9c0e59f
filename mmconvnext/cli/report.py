"""Show what a detector finds and where it fails, as one HTML file."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from mmconvnext.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    what = "work folder of a training, whose best checkpoint is tested; or a result.json of "
    parser.add_argument("source", metavar="RUN", help=f"{what}mmconvnext test ... --report")
    common.add_data_arguments(parser, own=False)
    add = parser.add_argument
    add("--out", metavar="FILE.html", help="default: report.html beside result.json")
    add("--pictures", type=int, default=60, help="in the gallery; default: %(default)s")
    add("--score", type=float, default=0.3, help="from which on a detection counts as such")


def run(args: argparse.Namespace) -> None:
    """Test where that has not been done, and write the page."""
    from mmconvnext.report import write_report

    result = result_of(Path(args.source), args)
    out = args.out and Path(args.out)
    gc.disable()  # some hundred thousand masks would be visited again and again
    print(f"written to {write_report(result, out, args.pictures, args.score)}")


def result_of(source: Path, args: argparse.Namespace) -> Path:
    """``result.json``: the source itself, or of its best checkpoint, tested unless that is done."""
    if source.is_file():
        return source
    from mmconvnext.engine.config import load_config
    from mmconvnext.engine.run_dir import find_run
    from mmconvnext.engine.testing import run_test

    found = find_run(source)
    folder = source / "report"
    result = folder / "result.json"
    asked = args.data_root or args.data_checks  # the last test may have been on other data
    newer = result.is_file() and result.stat().st_mtime > found.checkpoint.stat().st_mtime
    if newer and not asked:
        print(f"{result} is newer than {found.checkpoint}, which is not tested again")
        return result
    cfg = load_config(str(found.config))
    cfg.load_from, cfg.resume = str(found.checkpoint), False
    cfg.work_dir, cfg.launcher = str(folder), "none"
    if cfg.get("visualizer"):
        cfg.visualizer.name = str(folder)  # or a second test would log into the folder of the first
    common.set_data(cfg, args)
    return run_test(cfg, keep=True)[1]
