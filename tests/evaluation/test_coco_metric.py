"""hotcoco's numbers are those of MMDetection's metric with pycocotools, to the last bit."""

import copy
import json
import sys

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from pycocotools import mask as mask_utils

from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import FastCocoMetric

pytest.importorskip("hotcoco")
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


def both(path, results, **settings) -> tuple[dict, dict]:
    metrics = []
    for kind in (FastCocoMetric, CocoMetric):
        metric = kind(ann_file=str(path), **settings)
        metric.dataset_meta = {"classes": settings.pop("classes", CLASSES)}
        metrics.append(metric.compute_metrics(copy.deepcopy(results)))
    return metrics[0], metrics[1]


def assert_same(ours: dict, theirs: dict) -> None:
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert type(ours[key]) is type(value)
        np.testing.assert_array_equal(ours[key], value, err_msg=key)


@pytest.fixture(params=[0, 1, 2])
def data(request, tmp_path):
    rng = np.random.default_rng(request.param)
    content = truth(rng)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json", predictions(rng, content)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"classwise": True},
        {"metric_items": ["mAP_50", "AR@300", "AR_s@1000"]},
        {"proposal_nums": (1, 10, 100)},
        {"proposal_nums": (1, 5, 20)},
        {"iou_thrs": np.array([0.3, 0.5, 0.75])},
    ],
    ids=str,
)
def test_all_numbers_are_equal(data, settings):
    path, results = data
    ours, theirs = both(path, results, metric=["bbox", "segm"], **settings)
    assert_same(ours, theirs)
    assert any(0 < value < 1 for value in ours.values()) or settings.get("proposal_nums")


def test_the_array_of_precisions_is_equal_to_the_last_bit(data, monkeypatch):
    from mmdet.evaluation.metrics import coco_metric

    path, results = data
    seen = []

    class Spy(coco_metric.COCOeval):
        def summarize(self):
            super().summarize()
            seen.append((self.eval["precision"], self.stats))

    monkeypatch.setattr(coco_metric, "COCOeval", Spy)
    for kind in ("bbox", "segm"):
        metric = FastCocoMetric(ann_file=str(path), metric=kind)
        metric.dataset_meta = {"classes": CLASSES}
        metric._prepare([])
        stats, precision = metric._evaluate(kind, [result for _, result in results])
        both(path, results, metric=kind)
        assert np.array_equal(seen[-1][0], precision)
        assert np.array_equal(seen[-1][1], stats)


def test_real_annotations(coco_tiny):
    path = coco_tiny / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    classes = tuple(category["name"] for category in content["categories"])
    results = predictions(rng, content, number=2)
    for kind in (FastCocoMetric, CocoMetric):
        metric = kind(ann_file=str(path), metric=["bbox", "segm"], classwise=True)
        metric.dataset_meta = {"classes": classes}
        computed = metric.compute_metrics(copy.deepcopy(results))
        if kind is FastCocoMetric:
            ours = computed
    assert_same(ours, computed)


def test_without_any_detection(data):
    path, results = data
    empty = [
        (size, {k: v if k == "img_id" else v[:0] for k, v in result.items()})
        for size, result in results
    ]
    ours, theirs = both(path, empty, metric=["bbox", "segm"])
    assert ours == theirs == {}


def test_truth_from_the_data_samples(data):
    path, results = data
    content = json.loads(path.read_text())
    with_truth = []
    for size, result in results:
        anns = [
            {
                "bbox": [
                    a["bbox"][0],
                    a["bbox"][1],
                    a["bbox"][0] + a["bbox"][2],
                    a["bbox"][1] + a["bbox"][3],
                ],
                "bbox_label": [c["id"] for c in CATEGORIES].index(a["category_id"]),
                "ignore_flag": a["iscrowd"],
            }
            for a in content["annotations"]
            if a["image_id"] == size["img_id"]
        ]
        with_truth.append(({**size, "anns": anns}, result))
    ours, theirs = [], []
    for kind, into in ((FastCocoMetric, ours), (CocoMetric, theirs)):
        metric = kind(metric="bbox")
        metric.dataset_meta = {"classes": CLASSES}
        into.append(metric.compute_metrics(copy.deepcopy(with_truth)))
    assert_same(ours[0], theirs[0])


def test_what_hotcoco_does_not_do_is_mmdetections(data, tmp_path):
    path, results = data
    ours, theirs = both(path, results, metric=["proposal", "bbox"])
    assert_same(ours, theirs)
    both(path, results, metric="bbox", outfile_prefix=str(tmp_path / "out"))
    assert (tmp_path / "out.bbox.json").is_file()


def test_mistakes(data):
    path, results = data
    with pytest.raises(KeyError, match='metric item "mAP_x" is not supported'):
        both(path, results, metric_items=["mAP_x"])
    no_masks = [(s, {k: v for k, v in r.items() if k != "masks"}) for s, r in results]
    with pytest.raises(KeyError, match="segm is not in results"):
        both(path, no_masks, metric="segm")
    with pytest.raises(
        ConfigError, match=r"backend='rust' of FastCocoMetric must be one of \('auto"
    ):
        FastCocoMetric(ann_file=str(path), backend="rust")


def test_the_backend(data, monkeypatch):
    path, results = data
    assert FastCocoMetric(ann_file=str(path)).backend == "hotcoco"
    metric = METRICS.build(
        {"type": "FastCocoMetric", "ann_file": str(path), "backend": "pycocotools"}
    )
    metric.dataset_meta = {"classes": CLASSES}
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it would fail
    assert metric.compute_metrics(copy.deepcopy(results))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert FastCocoMetric(ann_file=str(path)).backend == "pycocotools"
    with pytest.raises(ConfigError, match="hotcoco is not installed; pip install hotcoco"):
        FastCocoMetric(ann_file=str(path), backend="hotcoco")
