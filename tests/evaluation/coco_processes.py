"""What runs in processes of their own, so that MMDetection is not imported before mmconvnext."""

import pickle
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as mask_utils

from mmconvnext.evaluation.coco_metric import FastCocoMetric


def processed(kind, results: list, path: str, classes):
    """A metric that was given detections as tensors, image by image."""
    metric = kind(ann_file=path, metric=["bbox", "segm"], classwise=True)
    metric.dataset_meta = {"classes": classes}
    for size, found in results:
        shape = (size["height"], size["width"])
        tensors = {k: torch.from_numpy(v) for k, v in found.items() if isinstance(v, np.ndarray)}
        masks = [mask_utils.decode(mask) for mask in found["masks"]]
        tensors["masks"] = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *shape))
        image = {"img_id": size["img_id"], "ori_shape": shape, "pred_instances": tensors}
        metric.process({}, [image])
    return metric


def evaluate_a_half(rank: int, folder: Path, path: str, classes, size: int) -> None:
    """Evaluate every second image of results.pkl, as one of two processes; write the numbers."""
    results = pickle.loads((folder / "results.pkl").read_bytes())
    padded = [*results, *results[: size % 2]]  # as a sampler does, to give both as many
    numbers = processed(FastCocoMetric, padded[rank::2], path, classes).evaluate(size)
    (folder / f"numbers{rank}.pkl").write_bytes(pickle.dumps(numbers))
