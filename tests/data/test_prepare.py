import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmconvnext.data.prepare import CheckOptions, cache_folder, check_one, prepare_data
from mmconvnext.errors import ConfigError, DataError
from tests.data.test_checks import CLASSES, file_of


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def write(tmp_path):
    """Write an annotation file with its pictures."""

    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        for image in content["images"]:
            cv2.imwrite(str(tmp_path / image["file_name"]), np.zeros((80, 100, 3), np.uint8))
        return tmp_path / name

    return write


def config(root, train="train.json", test="train.json", metric=None, **more) -> Config:
    load = [
        {"type": "LoadImageFromFile"},
        {"type": "FastLoadAnnotations", "with_bbox": True, "with_mask": True},
    ]
    common = {"type": "CocoDataset", "data_root": str(root), "data_prefix": {"img": ""}}
    common |= {"metainfo": {"classes": CLASSES}, "pipeline": load}
    evaluator = {"type": "FastCocoMetric", "metric": "segm", "ann_file": f"{root}/{metric or test}"}
    return Config(
        {
            "train_dataloader": {"dataset": {**common, "ann_file": train}},
            "test_dataloader": {"dataset": {**common, "ann_file": test}},
            "test_evaluator": evaluator,
            **more,
        }
    )


def test_data_set_and_metric_use_the_file_itself_or_one_repaired_copy(tmp_path, write):
    path = write("train.json", file_of())
    cfg = config(tmp_path)
    data = prepare_data(cfg, ("train", "test"))
    assert data.notes == data.refusals == []
    used = (cfg.train_dataloader.dataset, cfg.test_dataloader.dataset, cfg.test_evaluator)
    assert {each.ann_file for each in used} == {str(path)}
    write("train.json", file_of(area=...))
    data = prepare_data(cfg, ("test",))
    assert data.notes == [
        f"{path}: no area: absent, not above 0 or no number; computed (1: annotation 1 of image 1)"
    ]
    used = cfg.test_dataloader.dataset.ann_file
    assert used == cfg.test_evaluator.ann_file != str(path)
    assert json.loads(Path(used).read_text())["annotations"][0]["area"] == 1200
    assert json.loads(path.read_text()) == file_of(area=...)
    assert data.report[0]["findings"][0]["records"] == ["annotation 1 of image 1"]
    assert (data.report[0]["objects"], data.report[0]["repaired_objects"]) == (2, 0)


def test_a_result_is_kept_until_the_file_or_a_picture_changes(tmp_path, write, monkeypatch):
    path = write("train.json", file_of(area=...))
    first = prepare_data(config(tmp_path), ("test",))
    with monkeypatch.context() as patch:
        patch.setattr("mmconvnext.data.prepare.check_annotations", None)
        assert prepare_data(config(tmp_path), ("test",)) == first
    (tmp_path / "2.png").unlink()
    assert "2.png does not exist" in prepare_data(config(tmp_path), ("test",)).refusals[0]
    write("train.json", file_of(iscrowd=...))
    assert "no iscrowd" in prepare_data(config(tmp_path), ("test",)).notes[0]
    assert json.loads(path.read_text()) == file_of(iscrowd=...)
    assert not [name for name in cache_folder().iterdir() if name.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({"mode": "strict"}, {"area": ...}, "no area"),
        ({"mode": "repair"}, {"area": ...}, ""),
        ({"mode": "off"}, {"area": ...}, ""),
        ({"mode": "strict", "allow": ["no area"]}, {"area": ...}, ""),
        ({"mode": "strict"}, {"area": ..., "iscrowd": ...}, "cannot be used:\n- no iscrowd"),
        ({}, {"bbox": None}, r"1 of 2 objects \(50.0%\)"),
        ({"max_repaired": 0.5}, {"bbox": None}, ""),
        ({"pictures": 1}, {}, ""),
        ({"pictures": 0}, {}, ""),
        ({"pictures": False}, {}, ""),
        ({"pictures": 2}, {}, ""),
    ],
)
def test_options(tmp_path, write, options, changes, said):
    write("train.json", file_of(**changes))
    data = prepare_data(config(tmp_path, data_checks=options), ("test",))
    assert len(data.refusals) == bool(said)
    assert re.search(said, "".join(data.refusals))
    if "pictures" in options:
        (tmp_path / "2.png").unlink()
        data = prepare_data(config(tmp_path, data_checks=options), ("test",))
        assert bool(data.refusals) == (options["pictures"] == 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mod": "off"}, "no 'mod'; choose of mode"),
        ({"mode": "on"}, "mode='on' is unknown"),
        ({"allow": ["no araea"]}, "allow has 'no araea', which is no kind"),
    ],
)
def test_wrong_options(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        prepare_data(config(tmp_path, data_checks=options), ("test",))


def test_a_cache_that_cannot_be_kept_is_named(tmp_path, write, monkeypatch):
    path = write("train.json", file_of())
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    with pytest.raises(ConfigError, match="name another folder with XDG_CACHE_HOME"):
        prepare_data(config(tmp_path), ("test",))


def test_a_metric_of_other_images_is_refused(tmp_path, write):
    write("train.json", file_of())
    other = file_of()
    other["images"].pop()
    other["annotations"].pop()
    write("other.json", other)
    with pytest.raises(DataError, match=r"other\.json \(test_evaluator.*other images"):
        prepare_data(config(tmp_path, metric="other.json"), ("test",))


def test_metrics_of_several_data_sets(tmp_path, write):
    write("train.json", file_of())
    other = file_of()
    for key in ("images", "annotations"):
        for entry in other[key]:
            entry["id"] += 2
    for entry in other["annotations"]:
        entry["image_id"] += 2
    write("other.json", other)
    cfg = config(tmp_path)
    one = cfg.test_dataloader.dataset
    both = [one, {**one, "ann_file": "other.json"}]
    cfg.test_dataloader.dataset = {"type": "ConcatDataset", "datasets": both}
    metrics = [{**cfg.test_evaluator, "ann_file": f"{tmp_path}/{d['ann_file']}"} for d in both]
    cfg.test_evaluator = {"type": "MultiDatasetsEvaluator", "metrics": metrics}
    assert not prepare_data(cfg, ("test",)).refusals
    cfg.test_evaluator = metrics
    with pytest.raises(DataError, match="type='MultiDatasetsEvaluator'"):
        prepare_data(cfg, ("test",))


def test_every_refused_file_is_named(tmp_path, write):
    for name in ("train.json", "val.json"):
        write(name, file_of(iscrowd=1) | {"annotations": []})
    data = prepare_data(config(tmp_path, test="val.json"), ("train", "test"))
    assert [text.partition(":")[0] for text in data.refusals] == [
        str(tmp_path / name) for name in ("train.json", "val.json")
    ]
    with pytest.raises(DataError, match=r"train\.json"):
        data.raise_refusals()


def test_a_file_alone(tmp_path, write):
    path = write("train.json", file_of(area=0))
    assert "no area" in check_one(path, None, CheckOptions()).notes[0]
    (tmp_path / "1.png").write_bytes(b"")
    assert "1.png is empty" in check_one(path, tmp_path, CheckOptions()).refusals[0]
    with pytest.raises(DataError, match="does not exist"):
        check_one(tmp_path / "none.json", None, CheckOptions())


BROKEN = [
    ({"shapes": []}, r"it has no list 'images' \(found: shapes\)"),
    ({**file_of(), "images": [{"id": 1}]}, r"images\[0\] has no 'file_name'"),
    ([], "it has a list, not an object with images"),
]


@pytest.mark.parametrize(("content", "fault"), BROKEN)
@pytest.mark.parametrize("wrapper", [None, "RepeatDataset", "ConcatDataset"])
def test_what_is_not_coco_is_refused_wherever_it_is_used(tmp_path, content, fault, wrapper):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    cfg = config(tmp_path)
    one = cfg.test_dataloader.dataset
    if wrapper == "RepeatDataset":
        cfg.test_dataloader.dataset = {"type": wrapper, "dataset": one, "times": 2}
    elif wrapper:
        cfg.test_dataloader.dataset = {"type": wrapper, "datasets": [one]}
    (text,) = prepare_data(cfg, ("test",)).refusals
    assert re.match(f"{path}: not COCO: {fault}", text)
    cfg.test_dataloader.dataset.type = "VOCDataset"  # the metric's file alone
    assert prepare_data(cfg, ("test",)).refusals == [text]
    path.write_text("{")
    assert "not COCO: it is not JSON" in prepare_data(cfg, ("test",)).refusals[0]
