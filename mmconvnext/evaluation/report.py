"""The table and the files that an evaluation leaves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import Runner
from terminaltables import AsciiTable

from mmconvnext.data.checks import metrics_of
from mmconvnext.engine.provenance import run_info
from mmconvnext.errors import ConfigError, UserError

COCO_METRICS = ("CocoMetric", "FastCocoMetric")
KINDS = {"bbox": "box", "segm": "mask"}
COLUMNS = {
    "mAP": "AP",
    "mAP_50": "AP50",
    "mAP_75": "AP75",
    "mAP_s": "AP small",
    "mAP_m": "AP medium",
    "mAP_l": "AP large",
}
# What is 0 without any detection; AP by size could be -1, where no object has that size.
KNOWN_WITHOUT_DETECTIONS = ("mAP", "mAP_50", "mAP_75")
CLASS_SUFFIX = "_precision"
# CocoMetric reports the class-wise AP of boxes and masks under the same key; with a metric of its
# own for each kind, under its own prefix, both arrive.
CLASSWISE_PREFIX = "coco_{kind}"


def ask_for_classwise(cfg: Config) -> None:
    """Let the test evaluator report the AP of each class, of boxes and of masks.

    Args:
        cfg: changed in place.

    Raises:
        ConfigError: the test evaluator has neither of ``COCO_METRICS``.
    """
    evaluators, found = [], False
    for metric in metrics_of(cfg.get("test_evaluator")):
        if metric.get("type") not in COCO_METRICS:
            evaluators.append(metric)
            continue
        found = True
        for kind in _kinds_of(metric):
            prefix = CLASSWISE_PREFIX.format(kind=kind)
            evaluators.append(
                ConfigDict({**metric, "metric": kind, "classwise": True, "prefix": prefix})
            )
    if not found:
        raise ConfigError(f"--classwise needs {' or '.join(COCO_METRICS)} in test_evaluator")
    cfg.test_evaluator = evaluators


def draw_to(cfg: Config, folder: str) -> None:
    """Let the test draw each image's ground truth beside its predictions.

    Args:
        cfg: changed in place.
        folder: where the pictures go.

    Raises:
        ConfigError: the config has no visualization hook.
    """
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ConfigError(
            "--show-dir needs default_hooks=dict(visualization=dict(type='DetVisualizationHook'))"
        )
    # Relative paths would be taken from inside of the work folder.
    hook.update(draw=True, test_out_dir=str(Path(folder).absolute()))


def check_dump_path(path: str | None) -> None:
    """Check the name of the file that predictions go to, before they are made.

    Raises:
        UserError: it is no pickle file.
    """
    if path and not path.endswith((".pkl", ".pickle")):
        raise UserError(f"--out {path}: the file must end in .pkl or .pickle")


def dump_predictions(runner: Runner, path: str) -> None:
    """Let a test also write its predictions, in MMDetection's format (masks as RLE).

    Args:
        runner: built, not yet run.
        path: of the pickle file.
    """
    runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=path))


def with_missing_ap(metrics: Mapping[str, float], cfg: Config) -> dict[str, float]:
    """Add the AP of a detector that found nothing: 0.

    COCO's API cannot read an empty list of detections, so ``CocoMetric`` logs an error and returns
    no metrics at all.

    Args:
        metrics: as MMEngine's runner returns them, in 0-1.
        cfg: of the run, whose ``test_evaluator`` says what was asked for.

    Returns:
        The metrics, with AP, AP50 and AP75 for every kind that was asked for.
    """
    found = split_metrics(metrics)[0]
    missing = {
        f"{metric.get('prefix') or 'coco'}/{kind}_{column}": 0.0
        for metric in metrics_of(cfg.get("test_evaluator"))
        if metric.get("type") in COCO_METRICS and not metric.get("format_only")
        for kind in _kinds_of(metric)
        if kind in KINDS and not any(name.startswith(f"{kind}_mAP") for name in found)
        for column in KNOWN_WITHOUT_DETECTIONS
    }
    if missing:
        print_log("no detections: AP is 0", logger="current", level=logging.WARNING)
    return {**metrics, **missing}


def split_metrics(
    metrics: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Sort MMEngine's flat metrics.

    Args:
        metrics: for example ``coco/bbox_mAP_50`` -> 0.61 or ``coco_segm/person_precision`` -> 0.4.

    Returns:
        AP in 0-1 by name without the prefix (``bbox_mAP_50``), and for each kind (``bbox``,
        ``segm``) AP in 0-1 by class, empty unless it was asked for; -1 where there is no object.
    """
    overall: dict[str, float] = {}
    classwise: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for key, value in metrics.items():
        # CocoMetric's value of a class without objects; JSON has no NaN.
        if isinstance(value, float) and math.isnan(value):
            value = -1.0
        # The first slash: names of classes may have others.
        prefix, name = key.split("/", 1) if "/" in key else ("", key)
        kind = prefix.removeprefix(CLASSWISE_PREFIX.format(kind=""))
        if name.endswith(CLASS_SUFFIX) and kind in KINDS:
            classwise[kind][name.removesuffix(CLASS_SUFFIX)] = value
        else:
            overall[name] = value
    return overall, classwise


def ap_table(metrics: Mapping[str, float]) -> str:
    """Format metrics as tables of AP in 0-100, one row for boxes and one for masks.

    Args:
        metrics: as MMEngine's runner returns them, in 0-1; -1 where there is no object.
    """
    overall, classwise = split_metrics(metrics)
    rows = [["COCO, 0-100", *COLUMNS.values()]]
    for kind, label in KINDS.items():
        if f"{kind}_mAP" in overall:
            rows.append([label, *(_percent(overall.get(f"{kind}_{c}")) for c in COLUMNS)])
    tables = [_format(rows)]
    kinds = [kind for kind in KINDS if classwise[kind]]
    if kinds:
        names = sorted({name for kind in kinds for name in classwise[kind]})
        header = ["AP of a class, 0-100", *(KINDS[kind] for kind in kinds)]
        tables.append(
            _format(
                [header, *([n, *(_percent(classwise[k].get(n)) for k in kinds)] for n in names)]
            )
        )
    return "\n".join(tables)


def write_result(metrics: Mapping[str, float], cfg: Config, checkpoint: str, folder: str) -> Path:
    """Write the metrics and what they were measured with as ``result.json``.

    Args:
        metrics: as MMEngine's runner returns them, in 0-1.
        cfg: of the run; the file also goes to its ``work_dir``, where the last result is found
            without knowing the time of the run.
        checkpoint: that was evaluated.
        folder: of this run.

    Returns:
        The path of the file in ``work_dir``.
    """
    overall, classwise = split_metrics(metrics)
    result = {
        "unit": "AP in 0-1; -1 where there is no object",
        "metrics": overall,
        "classwise": {kind: values for kind, values in classwise.items() if values},
        "checkpoint": checkpoint,
        "run": run_info(cfg),
    }
    text = json.dumps(result, indent=2) + "\n"
    path = Path(cfg.work_dir) / "result.json"
    for target in (Path(folder) / "result.json", path):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return path


def _kinds_of(metric: Mapping[str, Any]) -> list[str]:
    kinds = metric.get("metric", "bbox")
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _percent(value: float | None) -> str:
    return "-" if value is None or not value >= 0 else f"{100 * value:.1f}"


def _format(rows: list[list[str]]) -> str:
    table = AsciiTable(rows)
    table.justify_columns = dict.fromkeys(range(1, len(rows[0])), "right")
    return table.table
