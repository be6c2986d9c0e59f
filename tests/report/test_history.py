"""What a report says of the training and of the config."""

import json

import pytest
from yapf.yapflib.yapf_api import FormatCode

from mmconvnext.engine.config import load_config
from mmconvnext.report.history import (
    config_difference,
    curves_of,
    findings_of,
    published_line,
    typed,
)


def log(folder, *entries):
    path = folder / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))


def test_curves_of_a_training_that_was_resumed(tmp_path):
    first = {"lr": 1e-4, "loss": 2.0, "loss_mask": 1.0, "iter": 50, "step": 50}
    validation = {"coco/segm_mAP": 0.25, "val/loss": 2.5, "val/s0.loss_mask": 1.0, "step": 1}
    log(tmp_path / "1", first, validation, '{"lr": 1')  # was killed
    log(tmp_path / "2", {**first, "loss": 1.5, "iter": 100}, {"coco/segm_mAP": 0.5, "step": 2})
    curves = curves_of(tmp_path)
    assert curves["loss"]["loss"] == [[50, 2.0], [100, 1.5]]
    assert curves["loss"].keys() == {"loss", "loss_mask", "val/loss"}
    assert curves["loss"]["val/loss"] == [[50, 2.5]], "beside the training loss"
    assert curves["learning rate"]["lr"] == [[50, 1e-4], [100, 1e-4]]
    assert curves["AP on the validation set"] == {"coco/segm_mAP": [[50, 0.25], [100, 0.5]]}
    assert curves_of(tmp_path / "1") == {}


def test_a_long_curve_is_thinned_and_ends_where_it_ended(tmp_path):
    log(tmp_path / "1", *({"loss": float(i), "iter": i} for i in range(1, 1001)))
    points = curves_of(tmp_path)["loss"]["loss"]
    assert 200 <= len(points) <= 300
    assert points[-1] == [1000, 1000.0]


def test_the_published_row_is_shown_for_coco_alone():
    name = "mask_rcnn_convnext_t_coco.py"
    assert published_line(name, 80).startswith("Published: 46.2 box AP, 41.7 mask AP")
    assert published_line(name, 3) is None
    assert published_line("mask_rcnn_convnext_shapes.py", 80) is None
    assert published_line("no_such_config.py", 80) is None


def test_a_config_is_shown_as_what_differs_from_its_file(monkeypatch):
    monkeypatch.setattr("mmengine.config.config.FormatCode", FormatCode)
    name = "mask_rcnn_convnext_shapes.py"
    cfg = load_config(name)
    assert config_difference(name, cfg) == "nothing: it is the config file as it is"
    cfg.train_cfg.max_iters = 7
    assert config_difference(name, cfg).strip() == "train_cfg = dict(max_iters=7)"
    assert config_difference("gone.py", cfg).startswith("gone.py is not there any more")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/x/mmconvnext/__main__.py", "test", "a b.py"], "mmconvnext test 'a b.py'"),
        (["/env/bin/mmconvnext", "train", "c.py"], "mmconvnext train c.py"),
        (["tools/train.py", "c.py"], "python tools/train.py c.py"),
    ],
)
def test_commands_are_shown_as_they_are_typed(command, expected):
    assert typed(command) == expected


def test_findings_of_the_last_run(tmp_path):
    assert findings_of(tmp_path) == []
    for number, kind in ((1, "old"), (2, "box outside")):
        path = tmp_path / str(number) / "data_checks.json"
        path.parent.mkdir()
        finding = {"kind": kind, "text": "left out", "count": 3}
        path.write_text(json.dumps([{"file": "/data/train.json", "findings": [finding]}]))
    assert findings_of(tmp_path) == ["train.json: box outside: left out (3)"]
