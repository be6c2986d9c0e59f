"""Time and memory of ``mmconvnext report`` at the scale of val2017: python -m benchmarks.page."""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mmdet.utils import register_all_modules

from benchmarks.comparison import add_data_arguments, at_least, say
from benchmarks.evaluation import DETECTIONS, TRUTH, generate
from mmconvnext.data.paths import write_whole
from mmconvnext.engine.config import load_config
from mmconvnext.engine.provenance import run_info
from mmconvnext.evaluation.coco_metric import FastCocoMetric

CONFIG = "mask_rcnn_convnext_t_coco.py"
KINDS = ("bbox", "segm")


def write_result(folder: Path, data_root: str, images: int, detections: int) -> Path:
    """Write what ``mmconvnext test --report`` leaves, with the detections of ``eval``."""
    generate(data_root, folder, images, detections)
    truth = folder / TRUTH
    metric = FastCocoMetric(
        ann_file=str(truth), metric=[*KINDS], outfile_prefix=str(folder / "detections")
    )
    names = [each["name"] for each in metric._coco_api.dataset["categories"]]
    metric.dataset_meta = {"classes": tuple(names)}
    for sample in pickle.loads((folder / DETECTIONS).read_bytes()):  # our own file
        found = sample["pred_instances"]
        found |= {key: torch.from_numpy(found[key]) for key in ("bboxes", "scores", "labels")}
        metric.process({}, [sample])
    metrics = metric.evaluate(images)
    cfg = load_config(CONFIG)
    cfg.test_evaluator.ann_file = str(truth)
    cfg.dump(folder / "config.py")
    sources = {
        "files": {kind: str(folder / f"detections.{kind}.json") for kind in KINDS},
        "ann_file": str(truth),
        "pictures": str(Path(data_root, "val2017")),
        "config": str(folder / "config.py"),
    }
    content = {"metrics": metrics, "detections": sources, "checkpoint": str(folder / "last.pth")}
    write_whole(folder / "result.json", json.dumps({**content, "run": run_info(cfg)}))
    return folder / "result.json"


def main() -> None:
    """Write such a result, and the report of it in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    add_data_arguments(parser, images=5_000)
    parser.add_argument("--detections", type=at_least(1), default=300_000, help="in all")
    args = parser.parse_args()
    register_all_modules(init_default_scope=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        say(f"drawing {args.detections:,} detections")
        result = write_result(Path(folder), args.data_root, args.images, args.detections)
        subprocess.run([sys.executable, "-m", "mmconvnext", "report", result], check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        megabytes = result.with_name("report.html").stat().st_size / 1e6
    print(
        f"{used.ru_utime + used.ru_stime:.1f} s of CPU, {used.ru_maxrss / 2**20:.2f} GiB at most, "
        f"{megabytes:.1f} MB"
    )


if __name__ == "__main__":
    main()
