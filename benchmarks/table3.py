"""The paper's table 3: what is published, what is counted, what was trained and measured here."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import NamedTuple

from benchmarks import roofline
from benchmarks.comparison import VAL, add_data_arguments, check_coco, run
from benchmarks.detector import COLUMNS, Detector
from benchmarks.report import UNKNOWN, Report
from benchmarks.worker import Candidate
from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.config import load_config

TABLE = Path(__file__).with_suffix(".csv")
TITLE = "table 3 of A ConvNet for the 2020s: published, and ours"
HEADINGS = ("", "box / mask AP", "trained here", *("M", "published", "%"), *("G", "published", "%"))
NOTES = (
    "box / mask AP: published, 3x schedule on COCO; trained here: from the result.json of "
    "--work-dirs; M: parameters, G: multiply-adds at 800x1280, counted here beside the published "
    "ones, and their difference in per cent",
    "DWNet is no part of that table: arXiv 2106.04263",
)
NOTES_ON_TIME = (
    "detectors have random weights; images, pipeline, heads and test settings are those of ours",
    "published: frames a second on an A100, ConvNeXt's divided by theirs, to be compared with "
    "time / ConvNeXt",
)


class Row(NamedTuple):
    """A row of the published table; the first of a group is ConvNeXt's."""

    group: str  # those that the paper compares, of one size
    config: str  # in configs/
    box: float  # AP in 0-100
    mask: float
    params: float  # M
    flops: float  # G multiply-adds
    fps: float | None  # on an A100

    @property
    def name(self) -> str:
        """The config's, without its folder."""
        return self.config.rpartition("/")[2].removesuffix("_coco")


def read_table() -> list[Row]:
    """Read what is published."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [
            Row(group, config, *(float(cell) if cell else None for cell in numbers))
            for group, config, *numbers in list(csv.reader(file))[1:]
        ]


def cells(row: Row, work_dirs: Path) -> list[str]:
    """Count a detector, and look for its training."""
    cost = count_config(load_config(f"{row.config}.py"))
    counted = []
    for number, published in ((cost.params / 1e6, row.params), (cost.flops / 1e9, row.flops)):
        difference = 100 * (number / published - 1)
        counted += [f"{number:.1f}", f"{published:.0f}", f"{difference:+.2f}"]
    return [row.name, f"{row.box:.1f} / {row.mask:.1f}", trained(row, work_dirs), *counted]


def trained(row: Row, work_dirs: Path) -> str:
    """The AP of boxes and masks of a training that was tested, if there is one."""
    path = work_dirs / Path(row.config).name / "result.json"
    if not path.is_file():
        return UNKNOWN
    metrics = json.loads(path.read_text(encoding="utf-8")).get("metrics", {})
    found = [metrics.get(f"{kind}_mAP") for kind in ("bbox", "segm")]
    return " / ".join(UNKNOWN if ap is None else f"{100 * ap:.1f}" for ap in found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    groups = list(dict.fromkeys(row.group for row in read_table()))
    which = f"{', '.join(groups)}; default: all"
    add = parser.add_argument
    add("--groups", nargs="+", choices=groups, default=groups, metavar="GROUP", help=which)
    add("--work-dirs", type=Path, default=Path("work_dirs"), help="of trainings: %(default)s")
    add_data_arguments(parser, images=4)
    parser.set_defaults(data_root=None)  # only where it is given are time and memory measured
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Make the table and, with ``--data-root``, measure; may raise BenchmarkError."""
    if args.data_root:
        check_coco(args.data_root, *VAL)
    rows = [row for row in read_table() if row.group in args.groups]
    summary = {TITLE: [HEADINGS, *(cells(row, args.work_dirs) for row in rows)]}
    if not args.data_root:
        return Report([], notes=NOTES, summary=summary, extra={"table": summary})
    device, tables = roofline.choose_device(args.device), []
    work = {"data_root": args.data_root, "images": args.images, "device": device}
    for group in args.groups:
        first, *others = (row for row in rows if row.group == group)
        chosen = []
        for row in (first, *others):
            facts = {"published_ratio": first.fps / row.fps} if row.fps else {}
            arguments = {"config": f"{row.config}.py", **work}
            chosen.append(Candidate(row.name, Detector, arguments, facts=facts))
        title = f"{group}, {args.images} images at full size, {device}"
        tables.append(run(chosen, args, title=title))  # other networks: nothing is equal
    notes = (*NOTES, *NOTES_ON_TIME)
    return Report(tables, COLUMNS, notes, "ConvNeXt", summary, {"table": summary})
