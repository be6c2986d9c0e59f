"""What the command line asks of a test, in the config that it changes; the file that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict

from mmconvnext.data.checks import leaf_datasets, metrics_of
from mmconvnext.engine.provenance import run_info
from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import is_coco_metric, kinds_of
from mmconvnext.evaluation.pictures import ComparisonVisualizer
from mmconvnext.evaluation.tables import CLASSWISE_PREFIX, split_metrics


def use_tta(cfg: Config) -> None:
    """Test with test-time augmentation (``--tta``): ``tta_model`` and ``tta_pipeline``.

    Raises:
        ConfigError: the config has no ``tta_model``, ``tta_pipeline`` or ``test_dataloader``.
    """
    needed = ("tta_model", "tta_pipeline", "test_dataloader")
    missing = [key for key in needed if cfg.get(key) is None]
    if missing:
        raise ConfigError(
            f"--tta needs {' and '.join(missing)} in the config; "
            "configs/_base_/datasets/coco_instance.py has them"
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset["pipeline"] = deepcopy(cfg.tta_pipeline)


def ask_for_classwise(cfg: Config) -> None:
    """Let the test evaluator report the AP of each class (``--classwise``), of boxes and of masks.

    Raises:
        ConfigError: the test evaluator has no COCO metric.
    """
    evaluators: list[Mapping[str, Any]] = []
    for metric in metrics_of(cfg.get("test_evaluator")):
        if not is_coco_metric(metric):
            evaluators.append(metric)
            continue
        for kind in kinds_of(metric):
            prefix = CLASSWISE_PREFIX.format(kind=kind)
            evaluators.append({**metric, "metric": kind, "classwise": True, "prefix": prefix})
    if not any(map(is_coco_metric, evaluators)):
        raise ConfigError("--classwise needs CocoMetric or FastCocoMetric in test_evaluator")
    cfg.test_evaluator = evaluators


def dump_predictions(cfg: Config, path: str) -> None:
    """Let the test write its predictions (``--out``), in MMDetection's format (masks as RLE).

    Raises:
        ConfigError: the file has another suffix than a pickle file.
    """
    if not path.endswith((".pkl", ".pickle")):
        raise ConfigError(f"--out {path}: the file must end in .pkl or .pickle")
    dump = {"type": "DumpDetResults", "out_file_path": path}
    cfg.test_evaluator = [*metrics_of(cfg.get("test_evaluator")), dump]


def draw_to(cfg: Config, folder: str) -> None:
    """Let the test draw each image's ground truth beside its predictions (``--show-dir``).

    Raises:
        ConfigError: the config has no visualization hook.
    """
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ConfigError(
            "--show-dir needs default_hooks=dict(visualization=dict(type='DetVisualizationHook'))"
        )
    if cfg.get("visualizer", {}).get("type") == "DetLocalVisualizer":
        cfg.visualizer.type = ComparisonVisualizer.__name__
    # Relative paths would be taken from inside of the work folder.
    hook.update(draw=True, test_out_dir=str(Path(folder).absolute()))


def write_result(metrics: Mapping[str, float], cfg: Config, checkpoint: str, folder: str) -> Path:
    """Write the metrics and what they were measured with as ``result.json``.

    Args:
        metrics: as MMEngine's runner returns them, in 0-1.
        cfg: of the run.
        checkpoint: that was evaluated.
        folder: of this run.

    Returns:
        The path of a copy in the config's ``work_dir``, where the last result is found without
        knowing the time of the run.
    """
    overall, classwise = split_metrics(metrics)
    result = {
        "unit": "AP in 0-1; -1 where there is no object",
        "metrics": overall,
        "classwise": {kind: values for kind, values in classwise.items() if values},
        "checkpoint": checkpoint,
        "run": run_info(cfg),
    }
    path = Path(cfg.work_dir) / "result.json"
    for target in (Path(folder) / "result.json", path):
        mmengine.dump(result, target, indent=2)
    return path
