"""hotcoco's numbers are those of MMDetection's metric with pycocotools, to the last bit."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from pycocotools.cocoeval import COCOeval

from mmconvnext.errors import ConfigError
from mmconvnext.evaluation.coco_metric import FastCocoMetric, with_missing_ap
from mmconvnext.evaluation.hotcoco_eval import read_detections
from tests.evaluation.coco_data import (
    CATEGORIES,
    CLASSES,
    assert_same,
    both,
    computed,
    predictions,
    truth,
)

pytest.importorskip("hotcoco")
KINDS = ["bbox", "segm"]
COCO_IOUS = np.linspace(0.5, 0.95, 10)


@pytest.fixture
def summaries(monkeypatch):
    """What pycocotools was given to summarise: arrays of precision and recall, and stats."""
    seen = []
    summarize = COCOeval.summarize

    def keep(self):
        summarize(self)
        seen.append((self.eval["precision"], self.eval["recall"], self.stats))

    monkeypatch.setattr(COCOeval, "summarize", keep)
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"classwise": True},
        {"metric_items": ["mAP_50", "AR@300", "AR_s@1000"]},
        {"metric_items": []},
        {"proposal_nums": (1, 10, 100)},
        {"proposal_nums": (1, 5, 100)},
        {"proposal_nums": (3, 100, 5), "classwise": True},
        {"iou_thrs": np.array([0.3, 0.5, 0.75])},
    ],
    ids=str,
)
def test_all_numbers_are_equal(data, settings):
    path, results = data
    ours, theirs = both(path, results, metric=KINDS, **settings)
    assert_same(ours, theirs)
    assert any(0 < value < 1 for value in ours.values()) or not settings.get("metric_items", True)


@pytest.mark.parametrize("ious", [COCO_IOUS, np.array([0.3, 0.5, 0.75])], ids=["COCO's", "others"])
def test_the_arrays_of_precision_and_recall_are_equal(data, ious, summaries):
    path, results = data
    both(path, results, metric=KINDS, iou_thrs=ious)
    assert len(summaries) == 4
    for ours, theirs in zip(summaries[:2], summaries[2:], strict=True):
        for our_array, their_array in zip(ours, theirs, strict=True):
            assert our_array.shape == their_array.shape
            assert our_array.tobytes() == their_array.tobytes()


@pytest.mark.parametrize("numbers", [(100, 300, 1000), (50, 100, 200), (1000, 300, 100)], ids=str)
def test_more_detections_than_100_in_an_image(tmp_path, numbers):
    rng = np.random.default_rng(0)
    content = truth(rng)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    results = predictions(rng, content, number=90)
    most = max(np.bincount(found["labels"]).max() for _, found in results if len(found["labels"]))
    assert most > 100
    settings = {"metric": KINDS, "proposal_nums": numbers, "classwise": True}
    assert_same(*both(tmp_path / "truth.json", results, **settings))


@pytest.mark.parametrize(
    ("numbers", "same"),
    [((100,), (100,) * 3), ((100, 7), (7, 100, 100)), ((3, 100, 2000, 9, 5), (3, 100, 2000))],
)
@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_any_number_of_limits_of_detections(data, numbers, same, backend):
    path, results = data
    settings = {"ann_file": str(path), "metric": KINDS, "classwise": True}
    ours = computed(FastCocoMetric, results, **settings, proposal_nums=numbers, backend=backend)
    assert_same(
        ours, computed(METRICS.get("mmdet.CocoMetric"), results, **settings, proposal_nums=same)
    )


@pytest.mark.parametrize("numbers", [(), (1, 5, 20), (0, 100), (100, "300"), (100, 2.5)], ids=str)
@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_limits_of_detections_that_give_no_map_are_refused(numbers, backend):
    with pytest.raises(ConfigError, match="with 100 among them"):
        FastCocoMetric(metric=KINDS, proposal_nums=numbers, backend=backend)


def test_real_annotations(coco_tiny):
    path = coco_tiny / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    classes = tuple(category["name"] for category in content["categories"])
    results = predictions(rng, content, number=2)
    ours, theirs = both(path, results, classes, metric=KINDS, classwise=True)
    assert_same(ours, theirs)
    assert 0 < ours["segm_mAP"] < 1


def test_some_of_the_classes(data):
    path, results = data
    for _, found in results:
        found["labels"] %= 2
    ours, theirs = both(path, results, ("person", "cat"), metric=KINDS, classwise=True)
    assert_same(ours, theirs)
    assert {"person_precision", "cat_precision"} <= ours.keys()
    assert "dog_precision" not in ours


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("classwise", [True, "kinds"])
def test_each_class_has_its_own_ap_whatever_the_order_of_the_ids(data, backend, classwise):
    path, results = data
    settings = {"ann_file": str(path), "metric": KINDS, "classwise": classwise, "backend": backend}
    expected = {**computed(FastCocoMetric, results, **settings)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": CATEGORIES[::-1]}))
    for _, found in results:
        found["labels"] = 2 - found["labels"]
    metric = FastCocoMetric(**settings)
    metric.dataset_meta = {"classes": CLASSES[::-1]}
    for _ in range(2):  # a training evaluates more than once
        np.testing.assert_equal({**metric.compute_metrics(copy.deepcopy(results))}, expected)


def test_thresholds_may_be_a_list_or_a_number(data):
    path, results = data
    for given, same in (([*COCO_IOUS], COCO_IOUS), (0.5, np.array([0.5]))):
        settings = [{"ann_file": str(path), "iou_thrs": thresholds} for thresholds in (given, same)]
        numbers = [computed(FastCocoMetric, results, **each) for each in settings]
        assert_same(*numbers)
        assert numbers[0]["bbox_mAP_50"] > 0


@pytest.mark.parametrize("kind", ["CocoMetric", FastCocoMetric])
@pytest.mark.parametrize("prefixes", [("coco",), ("coco_bbox", "coco_segm")])
def test_without_any_detection_ap_is_zero(kind, prefixes, notes):
    evaluator = [{"type": kind, "metric": KINDS, "prefix": None}]
    if len(prefixes) == 2:
        evaluator = [
            {"type": kind, "metric": m, "prefix": p} for m, p in zip(KINDS, prefixes, strict=True)
        ]
    metrics = with_missing_ap({}, evaluator)
    assert notes()[-1] == "no detections: AP is 0"
    names = ("mAP", "mAP_50", "mAP_75")
    expected = zip(KINDS, prefixes * (3 - len(prefixes)), strict=True)
    assert metrics == {f"{p}/{m}_{name}": 0.0 for m, p in expected for name in names}


@pytest.mark.parametrize(
    ("metrics", "evaluator"),
    [
        ({"coco/bbox_mAP": 0.5, "coco/segm_mAP": 0.25}, {"type": "CocoMetric", "metric": KINDS}),
        ({}, {"type": "CocoMetric", "metric": "bbox", "format_only": True}),
        ({"AR@100": 0.5}, {"type": "CocoMetric", "metric": "proposal_fast"}),
        ({}, {"type": "VOCMetric"}),
        ({}, None),
    ],
)
def test_no_ap_is_made_up(metrics, evaluator):
    assert with_missing_ap(metrics, evaluator) == metrics
    boxes = with_missing_ap(metrics, [{"type": "FastCocoMetric"}]).keys() - metrics.keys()
    assert len(boxes) in (0, 3)
    assert all(name.startswith("coco/bbox_mAP") for name in boxes)


def test_truth_from_the_data_samples(data):
    path, results = data
    content = json.loads(path.read_text())
    with_truth = []
    for size, result in results:
        anns = [
            {
                "bbox": np.add(a["bbox"], [0, 0, *a["bbox"][:2]]).tolist(),
                "bbox_label": [c["id"] for c in CATEGORIES].index(a["category_id"]),
                "ignore_flag": a["iscrowd"],
                "mask": a["segmentation"],
            }
            for a in content["annotations"]
            if a["image_id"] == size["img_id"]
        ]
        with_truth.append(({**size, "anns": anns}, result))
    numbers = both(None, with_truth, metric=KINDS, classwise=True)
    assert_same(*numbers)
    assert 0 < numbers[0]["segm_mAP"] < 1


def test_what_hotcoco_does_not_do_is_mmdetections(data, tmp_path):
    path, results = data
    ours, theirs = both(path, results, metric=["proposal", "bbox"])
    assert_same(ours, theirs)
    prefix = str(tmp_path / "out")
    ours, theirs = both(path, results, metric="bbox", format_only=True, outfile_prefix=prefix)
    assert ours == theirs == {}
    assert (tmp_path / "out.bbox.json").is_file()


def test_files_of_results_are_mmdetections(data, tmp_path):
    path, results = data
    files = []
    for metric in (FastCocoMetric, CocoMetric):
        prefix = str(tmp_path / metric.__name__)
        computed(metric, results, ann_file=str(path), metric=KINDS, outfile_prefix=prefix)
        files.append([Path(f"{prefix}.{kind}.json").read_text() for kind in KINDS])
    assert files[0] == files[1]
    assert json.loads(files[0][1])[0].keys() >= {"image_id", "category_id", "segmentation"}
    for kind, text in zip(KINDS, files[0], strict=True):  # the same in the faster form
        table, masks = read_detections(tmp_path / f"FastCocoMetric.{kind}.npz")
        found = json.loads(text)
        columns = [
            [each["image_id"], *each["bbox"], each["score"], each["category_id"]] for each in found
        ]
        assert table.tolist() == columns
        if kind == "bbox":
            assert masks is None
        else:
            masks = [{**mask, "counts": mask["counts"].decode()} for mask in masks]
            assert masks == [each["segmentation"] for each in found]


def test_mistakes(data):
    path, results = data
    with pytest.raises(KeyError, match='metric item "mAP_x" is not supported'):
        both(path, results, metric_items=["mAP_x"])
    no_masks = [(s, {k: v for k, v in r.items() if k != "masks"}) for s, r in results]
    with pytest.raises(KeyError, match="segm is not in results"):
        both(path, no_masks, metric="segm")
    says = r"backend='rust' of FastCocoMetric must be one of \('auto"
    with pytest.raises(ConfigError, match=says):
        FastCocoMetric(ann_file=str(path), backend="rust")


def test_the_backend(data, monkeypatch):
    path, results = data
    assert FastCocoMetric(ann_file=str(path)).backend == "hotcoco"
    settings = {"type": "FastCocoMetric", "ann_file": str(path)}
    metric = METRICS.build({**settings, "backend": "pycocotools"})
    metric.dataset_meta = {"classes": CLASSES}
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # importing it would fail
    assert metric.compute_metrics(copy.deepcopy(results))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert FastCocoMetric(ann_file=str(path)).backend == "pycocotools"
    with pytest.raises(ConfigError, match="hotcoco is not installed; pip install hotcoco"):
        FastCocoMetric(ann_file=str(path), backend="hotcoco")
