import json

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmconvnext.errors import ConfigError
from mmconvnext.evaluation import report

METRICS = {
    "coco/bbox_mAP": 0.5123,
    "coco/bbox_mAP_50": 0.75,
    "coco/bbox_mAP_s": -1.0,
    "coco/segm_mAP": 0.25,
}
CLASSWISE = {
    "coco_bbox/cat_precision": 0.4,
    "coco_segm/cat_precision": 0.3,
    "coco_segm/segm_mAP": 0.2,
}


def rows_of(metrics) -> list[list[str]]:
    """The rows of boxes and of masks."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in report.ap_table(metrics).splitlines()
        if line.startswith(("| box", "| mask"))
    ]


def test_the_table_is_in_percent_and_has_no_value_where_there_is_no_object():
    box, mask = rows_of(METRICS)
    assert box == ["box", "51.2", "75.0", "-", "-", "-", "-"]
    assert mask[:2] == ["mask", "25.0"]


def test_classes_get_a_table_of_their_own():
    text = report.ap_table(METRICS | CLASSWISE)
    (row,) = (line for line in text.splitlines() if line.startswith("| cat"))
    assert [c.strip() for c in row.strip("|").split("|")] == ["cat", "40.0", "30.0"]


def test_metrics_are_sorted_by_kind():
    overall, classwise = report.split_metrics(METRICS | CLASSWISE)
    assert overall["bbox_mAP"] == 0.5123
    assert overall["segm_mAP"] == 0.2
    assert classwise == {"bbox": {"cat": 0.4}, "segm": {"cat": 0.3}}


def test_classes_may_have_slashes_in_their_names_and_no_objects(tmp_path):
    metrics = {"coco_bbox/car/truck_precision": 0.4, "coco_bbox/cat_precision": float("nan")}
    classwise = report.split_metrics(metrics)[1]
    assert classwise["bbox"] == {"car/truck": 0.4, "cat": -1.0}
    cfg = Config({"work_dir": str(tmp_path)}, filename=None)
    path = report.write_result(metrics, cfg, "a.pth", str(tmp_path))
    assert "NaN" not in path.read_text()


def test_the_result_says_what_it_was_measured_with(tmp_path):
    cfg = Config({"work_dir": str(tmp_path / "work")}, filename=None)
    path = report.write_result(METRICS, cfg, "epoch_3.pth", str(tmp_path / "work" / "time"))
    assert path == tmp_path / "work" / "result.json"
    result = json.loads(path.read_text())
    assert result["metrics"]["bbox_mAP"] == 0.5123
    assert result["checkpoint"] == "epoch_3.pth"
    assert "0-1" in result["unit"]
    assert {"git_revision", "packages", "hardware", "config"} <= result["run"].keys()
    assert result["run"]["packages"]["torch"]
    assert (tmp_path / "work" / "time" / "result.json").read_text() == path.read_text()


@pytest.fixture
def without_detections(tmp_path):
    """What MMDetection returns for one image with one object that was not found."""
    coco = {
        "images": [{"id": 1, "width": 8, "height": 8, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16}
            | {"iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco))
    metric = CocoMetric(ann_file=str(path), metric=["bbox", "segm"])
    metric.dataset_meta = {"classes": ("cat",)}
    nothing = {"bboxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    nothing["masks"] = torch.zeros(0, 8, 8)
    metric.process({}, [{"img_id": 1, "ori_shape": (8, 8), "pred_instances": nothing}])
    return metric.evaluate(1)


@pytest.mark.parametrize("classwise", [False, True])
def test_without_a_detection_ap_is_zero(without_detections, classwise, caplog):
    cfg = Config({"test_evaluator": {"type": "CocoMetric", "metric": ["bbox", "segm"]}})
    if classwise:
        report.ask_for_classwise(cfg)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    metrics = report.with_missing_ap(without_detections, cfg)
    logger.removeHandler(caplog.handler)
    assert [r.getMessage() for r in caplog.records].count("no detections: AP is 0") == 1
    overall, _ = report.split_metrics(metrics)
    columns = ("mAP", "mAP_50", "mAP_75")
    assert overall == {f"{kind}_{c}": 0.0 for kind in ("bbox", "segm") for c in columns}
    box, mask = rows_of(metrics)
    assert box == ["box", "0.0", "0.0", "0.0", "-", "-", "-"]
    assert mask == ["mask", *box[1:]]


@pytest.mark.parametrize(
    ("metrics", "evaluator"),
    [
        (METRICS, {"type": "CocoMetric", "metric": ["bbox", "segm"]}),
        ({}, {"type": "CocoMetric", "metric": "bbox", "format_only": True}),
        ({"AR@100": 0.5}, {"type": "CocoMetric", "metric": "proposal_fast"}),
        ({}, {"type": "VOCMetric"}),
    ],
)
def test_no_ap_is_made_up(metrics, evaluator):
    assert report.with_missing_ap(metrics, Config({"test_evaluator": evaluator})) == metrics


def test_only_the_kinds_asked_for_are_zero():
    cfg = Config({"test_evaluator": [{"type": "FastCocoMetric", "metric": "bbox"}]})
    assert {key.split("_mAP")[0] for key in report.with_missing_ap({}, cfg)} == {"coco/bbox"}


def test_classwise_asks_for_boxes_and_masks_apart():
    cfg = Config(
        {"test_evaluator": {"type": "CocoMetric", "metric": ["bbox", "segm"], "ann_file": "a"}}
    )
    report.ask_for_classwise(cfg)
    assert [(m.metric, m.prefix, m.classwise) for m in cfg.test_evaluator] == [
        ("bbox", "coco_bbox", True),
        ("segm", "coco_segm", True),
    ]
    assert all(m.ann_file == "a" for m in cfg.test_evaluator)


def test_classwise_needs_a_coco_metric():
    with pytest.raises(ConfigError, match="CocoMetric"):
        report.ask_for_classwise(Config({"test_evaluator": {"type": "VOCMetric"}}))


def test_pictures_go_to_the_folder_as_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config({"default_hooks": {"visualization": {"type": "DetVisualizationHook"}}})
    report.draw_to(cfg, "pictures")
    assert cfg.default_hooks.visualization.draw
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / "pictures")
    with pytest.raises(ConfigError, match="DetVisualizationHook"):
        report.draw_to(Config({}), "pictures")
