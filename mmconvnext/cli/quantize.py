"""Write a detector in lower precision for OpenVINO or ONNX Runtime, with a bounded loss of AP."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mmconvnext.cli import common
from mmconvnext.cli.export import find_output, load_graph
from mmconvnext.deploy.sessions import SUFFIXES
from mmconvnext.errors import ConfigError, UserError

if TYPE_CHECKING:
    from mmengine.config import Config

TIMED = 4  # pictures
SEED = 0
APS = ("bbox_mAP", "segm_mAP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    common.add_config(parser, "model.test_cfg.rcnn.max_per_img=50", "; or a training's work folder")
    common.add_data_arguments(parser, own=False)
    add = parser.add_argument
    add("checkpoint", nargs="?", help="of the detector; default: the work folder's best")
    add("--to", choices=["int8", "bf16", "fp16"], default="int8", help="precision (%(default)s)")
    add("--format", choices=["openvino", "onnx"], default="openvino", help="(%(default)s)")
    drop = "largest loss of box or mask AP, 0-100, on the config's test data (%(default)s)"
    add("--max-drop", type=float, default=0.5, metavar="AP", help=drop)
    pictures = "pictures of the training data that int8 is calibrated on (%(default)s)"
    add("--calibration", type=int, default=64, metavar="N", help=pictures)
    add("--out", help="file; default: beside the checkpoint, with its name and the precision")


def run(args: argparse.Namespace) -> None:
    """Quantise, compare and write the file and, beside it, the numbers as JSON."""
    from mmconvnext.data.paths import metrics_of
    from mmconvnext.deploy import quantize as deploy
    from mmconvnext.deploy.export import export, size_of
    from mmconvnext.engine.provenance import hardware
    from mmconvnext.evaluation.coco_metric import is_coco_metric
    from mmconvnext.inference.samples import sample_pictures

    check(args)
    out = find_output(args, f"--format {args.format}", SUFFIXES[args.format], f"_{args.to}")
    cfg = common.read_config(args)
    common.set_data(cfg, args)
    if not any(map(is_coco_metric, metrics_of(cfg.get("test_evaluator")))):
        raise ConfigError(f"{cfg.filename} has no COCO metric in test_evaluator, which gives AP")
    timed, calibration = sample_pictures(cfg, "test", TIMED, SEED), []
    if args.to == "int8":
        calibration = sample_pictures(cfg, "train", args.calibration, SEED)
        if len(calibration) < args.calibration:
            print(f"--calibration: the training data has {len(calibration)} pictures")
    _, graph, meta = load_graph(args, deepcopy(cfg))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"f32{out.suffix}")
        print("exporting in float32", flush=True)
        export(graph, source, meta)
        found = deploy.quantize(
            source, args.to, calibration, lambda file: measure(cfg, file, folder), args.max_drop
        )
        files, aps = (source, found.path), (found.before, found.after)
        rates = deploy.speeds(files, timed)
        rows = [
            {"ap": dict(ap), "bytes": size_of(file), "images_per_second": rate}
            for file, ap, rate in zip(files, aps, rates, strict=True)
        ]
        about = {
            "to": args.to,
            "max_drop": args.max_drop,
            "drop": found.drop,
            "calibration": {"pictures": len(calibration), "seed": SEED},
            "in_float32": found.kept,
            **dict(zip(("before", "after"), rows, strict=True)),
        }
        deploy.save(*deploy.reopened(found.path, quantization=about), out)
    print(table(*rows, args.to))
    for kept in found.kept:
        print(
            f"in float32: {kept['module']}, as int8 in it alone loses {kept['loss']:.4f} of the "
            f"agreement with float32; the largest loss of AP is {kept['drop']:.2f} then"
        )
    if (args.to, args.format) == ("fp16", "onnx"):
        print("ONNX Runtime's CPU has hardly any fp16: the file is for GPUs, where it was not run")
    print(f"written to {out}")
    report = {"file": out.name, **about, "hardware": hardware(), "command": sys.argv}
    common.write_json(report, f"{out}.json")


def check(args: argparse.Namespace) -> None:
    """Raise UserError for what cannot be done, before anything is read."""
    if not 0 <= args.max_drop < math.inf:
        raise UserError(f"--max-drop {args.max_drop:g}: a loss of AP (0-100) is 0 or more, as 0.5")
    if args.calibration < 1:
        raise UserError(f"--calibration {args.calibration}: it takes one picture or more, as 64")
    if (args.to, args.format) == ("bf16", "onnx"):
        raise UserError(
            "--to bf16 --format onnx: ONNX Runtime's CPU has no bf16; take --to int8 or fp16, or "
            "--format openvino"
        )
    for package in ("nncf",) * (args.to == "int8") + ("onnxscript", f"{args.format}"):
        if find_spec(package) is None:
            raise UserError(
                f"--to {args.to} --format {args.format} needs {package}: pip install "
                "'mmconvnext[quantize]'"
            )


def measure(cfg: Config, file: Path, folder: str) -> dict[str, float]:
    """AP (0-100) of each kind, of an exported file on the config's test data."""
    from mmconvnext.engine.testing import run_test

    cfg = deepcopy(cfg)
    cfg.load_from, cfg.resume, cfg.launcher = str(file), False, "none"
    cfg.work_dir = str(Path(folder, "test"))
    if visualizer := cfg.get("visualizer"):  # those of one name are one object, with one folder
        visualizer.name = str(file)
    metrics, _ = run_test(cfg)
    return {key: 100 * value for key, value in metrics.items() if key.endswith(APS)}


def table(before: Mapping[str, Any], after: Mapping[str, Any], to: str) -> str:
    """AP, size and speed of both files, a row each."""
    from mmconvnext.evaluation.tables import format_table

    names = [key.replace("coco/", "").replace("_mAP", " AP") for key in before["ap"]]
    names = [name.replace("bbox", "box").replace("segm", "mask") for name in names]
    rows = [["", *names, "MiB", "images/s", "least", "most"]]
    for name, row in (("float32", before), (to, after)):
        rates = row["images_per_second"]
        aps = [f"{ap:.1f}" for ap in row["ap"].values()]
        speed = [f"{rate:.2f}" for rate in (median(rates), min(rates), max(rates))]
        rows.append([name, *aps, f"{row['bytes'] / 2**20:.1f}", *speed])
    return format_table(rows)
