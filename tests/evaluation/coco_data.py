"""A small data set in COCO's format, detections on it, and what two metrics make of them."""

import copy

import numpy as np
from mmdet.evaluation import CocoMetric
from pycocotools import mask as mask_utils

from mmconvnext.evaluation.coco_metric import FastCocoMetric

CLASSES = ("cat", "dog", "person")
CATEGORIES = [{"id": 7 * i + 3, "name": name} for i, name in enumerate(CLASSES)]
SIZE = 80


def truth(rng: np.random.Generator, num_images: int = 12) -> dict:
    """Boxes and polygons of all sizes, some of them crowds; one image is empty."""
    annotations = []
    for image in range(1, num_images):
        for _ in range(rng.integers(1, 6)):
            x, y = rng.integers(0, SIZE - 10, 2)
            w, h = rng.integers(2, SIZE - max(x, y), 2)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            crowd = int(rng.random() < 0.1)
            mask = mask_utils.merge(mask_utils.frPyObjects([list(map(float, polygon))], SIZE, SIZE))
            counts = {"size": [SIZE, SIZE], "counts": mask["counts"].decode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": CATEGORIES[rng.integers(3)]["id"],
                    "bbox": [int(v) for v in (x, y, w, h)],
                    "area": float(w * h),
                    "iscrowd": crowd,
                    "segmentation": counts if crowd else [list(map(float, polygon))],
                }
            )
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": SIZE, "width": SIZE}
        for i in range(1, num_images + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def predictions(rng: np.random.Generator, content: dict, number: int = 6) -> list[tuple]:
    """Detections near the objects, with ties among the scores."""
    results = []
    ids = [category["id"] for category in content["categories"]]
    for image in content["images"]:
        near = [a for a in content["annotations"] if a["image_id"] == image["id"]] * number
        boxes = np.array([a["bbox"] for a in near], dtype=np.float32).reshape(-1, 4)
        boxes += rng.normal(0, 2, boxes.shape).astype(np.float32)
        boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:]) + 1
        masks = []
        for x1, y1, x2, y2 in boxes.clip(0, image["width"]).astype(int):
            mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
            mask[y1:y2, x1:x2] = 1
            masks.append(mask_utils.encode(mask))
        labels = [
            ids.index(a["category_id"]) if rng.random() < 0.8 else rng.integers(len(ids))
            for a in near
        ]
        result = {
            "img_id": image["id"],
            "bboxes": boxes,
            "scores": rng.random(len(near)).round(1).astype(np.float32),
            "mask_scores": rng.random(len(near)).round(2).astype(np.float32),
            "labels": np.array(labels, dtype=np.int64),
            "masks": masks,
        }
        size = {"img_id": image["id"], "height": image["height"], "width": image["width"]}
        results.append((size, result))
    return results


def computed(kind, results, classes=CLASSES, **settings) -> dict:
    """What a metric computes."""
    metric = kind(**settings)
    metric.dataset_meta = {"classes": classes}
    return metric.compute_metrics(copy.deepcopy(results))


def both(path, results, classes=CLASSES, **settings) -> tuple[dict, dict]:
    """What FastCocoMetric and CocoMetric compute."""
    settings["ann_file"] = path and str(path)
    ours, theirs = (computed(k, results, classes, **settings) for k in (FastCocoMetric, CocoMetric))
    return ours, theirs


def assert_same(ours: dict, theirs: dict) -> None:
    """The same keys in the same order, types and numbers, to the last bit."""
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert type(ours[key]) is type(value)
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
