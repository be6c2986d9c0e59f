"""The perfect detector: it answers with the ground truth, and whatever it scores below 100 is lost
by the data, the pipeline or the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR, init_default_scope
from mmengine.structures import InstanceData
from mmengine.utils import track_iter_progress

from mmconvnext.errors import ConfigError


def oracle_metrics(cfg: Config, split: str = "test") -> dict[str, float]:
    """Evaluate the ground truth that a config's own pipeline loads.

    Args:
        cfg: complete, its data checked (:func:`mmconvnext.data.prepare.prepare_data`).
        split: ``val`` or ``test``.

    Returns:
        The metrics of the evaluator, AP in 0-1: 1 for everything that has objects.

    Raises:
        ConfigError: the config has no such data, or its pipeline loads no ground truth.
    """
    loader = cfg.get(f"{split}_dataloader")
    if loader is None or cfg.get(f"{split}_evaluator") is None:
        raise ConfigError(f"{cfg.filename} has no {split}_dataloader or no {split}_evaluator")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    with redirect_stdout(StringIO()):  # pycocotools says that it reads, but not which file
        dataset = DATASETS.build(loader["dataset"])
        evaluator = _build_evaluator(cfg[f"{split}_evaluator"])
    evaluator.dataset_meta = dataset.metainfo
    scaled = _loads_before_resize(loader["dataset"])
    for index in track_iter_progress((range(len(dataset)), len(dataset))):
        sample = dataset[index]["data_samples"]
        if "gt_instances" not in sample or "labels" not in sample.gt_instances:
            raise ConfigError(
                f"the pipeline of {split}_dataloader loads no ground truth: it needs "
                "dict(type='LoadAnnotations', with_bbox=True)"
            )
        evaluator.process([answer(sample, scaled)])
    return evaluator.evaluate(len(dataset))


def _build_evaluator(settings: Any) -> Evaluator:
    if isinstance(settings, Mapping) and "metrics" in settings:
        return EVALUATOR.build(settings)
    return Evaluator(settings)


def _loads_before_resize(dataset: Mapping[str, Any]) -> bool:
    """Whether boxes and masks are resized with the picture."""
    if "pipeline" not in dataset:
        inner = dataset.get("dataset") or (dataset.get("datasets") or [{}])[0]
        return _loads_before_resize(inner) if inner else False
    types = [str(transform.get("type")) for transform in dataset["pipeline"]]
    loads = [i for i, name in enumerate(types) if name.endswith("LoadAnnotations")]
    resizes = [i for i, name in enumerate(types) if "Resize" in name]
    return bool(loads and resizes) and loads[0] < resizes[-1]


def answer(sample: DetDataSample, scaled: bool = False) -> DetDataSample:
    """Give a sample its own ground truth as what was detected.

    Args:
        sample: with ``gt_instances`` of N objects; changed in place.
        scaled: whether their boxes are in pixels of the resized picture.
    """
    truth = sample.gt_instances
    boxes = truth.bboxes.tensor if hasattr(truth.bboxes, "tensor") else truth.bboxes
    boxes = boxes.float()
    if scaled:
        boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    # Different scores: a tie would be decided by the order alone.
    scores = torch.linspace(1, 0.5, len(boxes))
    found = InstanceData(bboxes=boxes, labels=truth.labels, scores=scores)
    if "masks" in truth:
        masks = truth.masks.resize(sample.ori_shape) if scaled else truth.masks
        height, width = sample.ori_shape
        bitmaps = torch.from_numpy(masks.to_ndarray().astype(bool))
        found.masks = bitmaps.reshape(len(boxes), height, width)
    sample.pred_instances = found
    return sample
