"""Testing a checkpoint: metrics, ``result.json`` and, where asked for, the detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmconvnext.data.paths import annotation_path, leaf_datasets, metrics_of, picture_folder
from mmconvnext.engine.provenance import write_result
from mmconvnext.engine.runner import build_runner
from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import is_coco_metric, with_missing_ap


def run_test(
    cfg: Config, notes: Sequence[str] = (), keep: bool = False
) -> tuple[dict[str, float], Path]:
    """Evaluate ``cfg.load_from`` on the test data and write ``result.json``.

    Args:
        cfg: complete, with ``load_from``, ``work_dir`` and ``launcher``; changed in place.
        notes: lines for the log that came up before there was one.
        keep: whether the detections are written, too, for a report.

    Returns:
        The metrics in 0-1, and where they were written.
    """
    if keep:
        keep_detections(cfg)
    source = cfg.load_from
    runner = build_runner(cfg, ("test",), notes)
    metrics = with_missing_ap(runner.test(), cfg.test_evaluator)
    path = Path(cfg.work_dir) / "result.json"
    if is_main_process():
        more = {"detections": _sources(cfg, runner.log_dir)} if keep else {}
        write_result(metrics, cfg, source, runner.log_dir, more)
    return metrics, path


def keep_detections(cfg: Config) -> None:
    """Let the metric write its detections into the work folder.

    Raises:
        ConfigError: the config tests on several data sets, or by another metric.
    """
    metrics, datasets = _tested(cfg)
    if len(datasets) != 1 or len(metrics) != 1:
        raise ConfigError(
            f"{cfg.filename} tests on {len(datasets)} data sets by {len(metrics)} COCO metrics, "
            "and a report is of one data set and one FastCocoMetric: choose them in the config"
        )
    metrics[0]["outfile_prefix"] = str(Path(cfg.work_dir) / "detections")


def _sources(cfg: Config, folder: str) -> dict[str, Any]:
    """What a report reads: detections, annotations, pictures and, in a run's folder, the config."""
    metrics, datasets = _tested(cfg)
    prefix = metrics[0]["outfile_prefix"]
    files = {kind: f"{prefix}.{kind}.json" for kind in ("bbox", "segm")}
    return {
        "files": {kind: path for kind, path in files.items() if Path(path).is_file()},
        "ann_file": str(annotation_path(datasets[0])),
        "pictures": str(picture_folder(datasets[0])),
        "config": str(Path(folder, Path(cfg.filename).name)),
    }


def _tested(cfg: Config) -> tuple[list[Any], list[Any]]:
    metrics = list(filter(is_coco_metric, metrics_of(cfg.get("test_evaluator"))))
    return metrics, leaf_datasets(cfg.test_dataloader["dataset"])
