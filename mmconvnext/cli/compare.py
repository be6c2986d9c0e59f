"""Compare runs: AP side by side, and whether the difference is more than noise."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmconvnext.cli import common
from mmconvnext.errors import UserError

ROWS = 10  # of classes, on the screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    what = "work folders of trainings, whose best checkpoints are tested, or result.json of "
    add = parser.add_argument
    add("sources", metavar="RUN", nargs="+", help=f"{what}test --report; the first is the baseline")
    common.add_data_arguments(parser, own=False)
    add("--json", metavar="FILE", help="write all numbers")
    add("--html", metavar="FILE", help="write a page, with the pictures on which they differ most")
    add("--pictures", type=int, default=20, help="in the page; default: %(default)s")
    add("--samples", type=int, default=1000, help="of the bootstrap; default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Test where that has not been done, compare, print and write."""
    if missing := [source for source in args.sources if not Path(source).exists()]:
        raise UserError(f"there is no {missing[0]}")
    if len(args.sources) < 2:
        raise UserError("compare takes two runs or more, the baseline first")
    from mmconvnext.cli.report import result_of
    from mmconvnext.evaluation.tables import format_table
    from mmconvnext.report.compare import compare, tables

    paths = [result_of(Path(source), args) for source in args.sources]
    content = compare(paths, args.samples, args.html and Path(args.html), args.pictures)
    for rows in tables(content):
        print(format_table(rows[: ROWS + 1]))
        if len(rows) > ROWS + 1:
            print(f"and {len(rows) - ROWS - 1} classes that differ less: --json, --html")
    settings = (f"{key}: {' | '.join(row)}" for key, row in content["config"].items())
    print("\n".join([*settings, *content["sentences"]]))
    if args.json:
        common.write_json(content, args.json)
    if args.html:
        print(f"written to {args.html}")
