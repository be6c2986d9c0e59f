import json

import pytest
from mmengine.config import Config

from mmconvnext.engine import testing
from mmconvnext.errors import ConfigError

TTA = {"tta_model": {"type": "InstanceTTAModel"}, "tta_pipeline": [{"type": "TestTimeAug"}]}


def test_tta_wraps_the_model_and_replaces_every_pipeline():
    datasets = [{"pipeline": []}, {"type": "Wrapper", "dataset": {"pipeline": []}}]
    dataset = {"type": "ConcatDataset", "datasets": datasets}
    cfg = Config({"model": {"type": "MaskRCNN"}, "test_dataloader": {"dataset": dataset}, **TTA})
    testing.use_tta(cfg)
    assert cfg.model == {"type": "InstanceTTAModel", "module": {"type": "MaskRCNN"}}
    one, two = cfg.test_dataloader.dataset.datasets
    assert one.pipeline == two.dataset.pipeline == cfg.tta_pipeline
    assert "pipeline" not in cfg.test_dataloader.dataset
    with pytest.raises(ConfigError, match="tta_model and tta_pipeline and test_dataloader"):
        testing.use_tta(Config({"model": {}}))


@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.FastCocoMetric"])
def test_classwise_asks_for_boxes_and_masks_apart(kind):
    metric = {"type": kind, "metric": ["bbox", "segm"], "ann_file": "a"}
    cfg = Config({"test_evaluator": [{"type": "VOCMetric"}, metric]})
    testing.ask_for_classwise(cfg)
    voc, *metrics = cfg.test_evaluator
    assert voc == {"type": "VOCMetric"}
    assert [(m["metric"], m["prefix"], m["classwise"], m["ann_file"]) for m in metrics] == [
        ("bbox", "coco_bbox", True, "a"),
        ("segm", "coco_segm", True, "a"),
    ]


def test_classwise_needs_a_coco_metric():
    with pytest.raises(ConfigError, match="CocoMetric"):
        testing.ask_for_classwise(Config({"test_evaluator": {"type": "VOCMetric"}}))


def test_predictions_go_to_a_pickle_file():
    cfg = Config({"test_evaluator": {"type": "CocoMetric"}})
    testing.dump_predictions(cfg, "a.pkl")
    dump = {"type": "DumpDetResults", "out_file_path": "a.pkl"}
    assert cfg.test_evaluator == [{"type": "CocoMetric"}, dump]
    with pytest.raises(ConfigError, match=r"--out a\.json: the file must end in \.pkl"):
        testing.dump_predictions(cfg, "a.json")


def test_pictures_go_to_the_folder_as_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config({"default_hooks": {"visualization": {"type": "DetVisualizationHook"}}})
    testing.draw_to(cfg, "pictures")
    assert cfg.default_hooks.visualization.draw
    for kind, chosen in (("DetLocalVisualizer", "ComparisonVisualizer"), ("Mine", "Mine")):
        cfg.visualizer = {"type": kind}
        testing.draw_to(cfg, "pictures")
        assert cfg.visualizer.type == chosen
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / "pictures")
    with pytest.raises(ConfigError, match="DetVisualizationHook"):
        testing.draw_to(Config({}), "pictures")


def test_the_result_says_what_it_was_measured_with(tmp_path):
    cfg = Config({"work_dir": str(tmp_path / "work")}, filename=None)
    metrics = {"coco/bbox_mAP": 0.5123, "coco_segm/cat_precision": float("nan")}
    path = testing.write_result(metrics, cfg, "epoch_3.pth", str(tmp_path / "work" / "time"))
    assert path == tmp_path / "work" / "result.json"
    result = json.loads(path.read_text())
    assert result["metrics"] == {"bbox_mAP": 0.5123}
    assert result["classwise"] == {"segm": {"cat": -1.0}}
    assert result["checkpoint"] == "epoch_3.pth"
    assert "0-1" in result["unit"]
    assert {"git_revision", "packages", "hardware", "config"} <= result["run"].keys()
    assert (tmp_path / "work" / "time" / "result.json").read_text() == path.read_text()
