import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmconvnext.data.layouts import read_layout
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


def two_sets(root, write) -> Config:
    """A config that evaluates two data sets, whose ids are the same, each by its metric."""
    write("train.json", file_of())
    other = file_of(bbox=[40, 20, 30, 40])
    other["annotations"][1]["bbox"] = [60, 20, 30, 40]
    for image in other["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    write("other.json", other)
    cfg = config(root)
    one = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = {
        "type": "ConcatDataset",
        "datasets": [one, {**one, "ann_file": "other.json"}],
    }
    metrics = [{**cfg.test_evaluator, "ann_file": f"{root}/{n}.json"} for n in ("train", "other")]
    settings = {"metrics": metrics, "dataset_prefixes": ["a", "b"]}
    cfg.test_evaluator = {"type": "MultiDatasetsEvaluator", **settings}
    return cfg


def test_each_of_several_data_sets_has_its_own_metric(tmp_path, write):
    cfg = two_sets(tmp_path, write)
    assert not prepare_data(cfg, ("test",)).refusals
    cfg.test_evaluator.metrics.reverse()
    with pytest.raises(
        DataError, match=r"other\.json \(test_evaluator\.ann_file\) has other images"
    ):
        prepare_data(cfg, ("test",))
    cfg.test_evaluator = cfg.test_evaluator.metrics[1]  # one for both, whose ids are the same
    with pytest.raises(DataError, match=r"2 images of .*other\.json, such as 1, have ids of other"):
        prepare_data(cfg, ("test",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(dataset_prefixes=["a", "a"]), "a/coco would name the results of two"),
        (lambda e: e.dataset_prefixes.pop(), "1 dataset_prefixes and 2 metrics for 2 data sets"),
        (lambda e: e.metrics.pop(), "2 dataset_prefixes and 1 metrics for 2 data sets"),
    ],
)
def test_an_evaluator_that_does_not_fit_its_data_sets(tmp_path, write, change, said):
    cfg = two_sets(tmp_path, write)
    change(cfg.test_evaluator)
    with pytest.raises(ConfigError, match=said):
        prepare_data(cfg, ("test",))


@pytest.mark.parametrize("renamed", [True, False])
def test_a_metric_of_other_pictures_with_the_same_ids_is_refused(tmp_path, write, renamed):
    write("train.json", file_of())
    other = file_of()
    for image, entry in zip(other["images"], other["annotations"], strict=True):
        if renamed:
            image["file_name"] = f"other_{image['file_name']}"
        else:
            entry.update(bbox=[60, 30, 30, 40])
    write("other.json", other)
    with pytest.raises(DataError, match=r"other\.json \(test_evaluator.*other images"):
        prepare_data(config(tmp_path, metric="other.json"), ("test",))
    other = file_of()
    other["annotations"].append({**other["annotations"][0], "id": 3})
    path = write("other.json", other)
    (note,) = prepare_data(config(tmp_path, metric="other.json"), ("test",)).notes
    assert note.startswith(f"{path} (test_evaluator.ann_file) is not the data's file")


def test_pictures_are_evaluated_once_and_all_of_them(tmp_path, write):
    path = write("train.json", file_of())
    cfg = config(tmp_path)
    one = cfg.test_dataloader.dataset
    one.filter_cfg = {"filter_empty_gt": True, "min_size": 0}
    (note,) = prepare_data(cfg, ("test",)).notes
    assert note.startswith(f"{path}: test_dataloader.dataset has test_mode=True now")
    assert cfg.test_dataloader.dataset.test_mode
    one.indices = 1
    with pytest.raises(
        DataError, match=r"dataset\.indices=1 evaluates some of the file's pictures"
    ):
        prepare_data(cfg, ("test",))
    del one["indices"]
    cfg.test_dataloader.dataset = {"type": "RepeatDataset", "times": 2, "dataset": one}
    with pytest.raises(DataError, match="the data set repeats its pictures"):
        prepare_data(cfg, ("test",))


@pytest.mark.parametrize(
    ("metainfo", "said"),
    [
        ({"CLASSES": CLASSES}, "metainfo.CLASSES"),
        ({"classes": ()}, "must be a tuple of names"),
        ({"classes": (1, 2, 3)}, "must be a tuple of names"),
        ({"classes": ("Bird", "Dog", "Cat")}, "no class 'Bird' .did you mean 'bird'"),
    ],
)
def test_classes_that_are_no_names_or_others_than_in_training(tmp_path, write, metainfo, said):
    write("train.json", file_of())
    other = file_of()
    for entry in other["categories"]:
        entry["name"] = entry["name"].title()
    write("val.json", other)
    cfg = config(tmp_path, test="val.json")
    cfg.test_dataloader.dataset.metainfo = metainfo
    with pytest.raises(DataError, match=said):
        prepare_data(cfg, ("test",))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_in_other_encodings_are_used_by_a_copy(tmp_path, write, encoding):
    path = write("train.json", file_of())
    path.write_text(path.read_text(), encoding=encoding)
    cfg = config(tmp_path)
    (note,) = prepare_data(cfg, ("test",)).notes
    assert note.startswith(f"{path}: text encoding: not UTF-8")
    assert json.loads(Path(cfg.test_evaluator.ann_file).read_text("utf-8")) == file_of()
    if encoding == "utf-8-sig":
        (split,) = read_layout(tmp_path)[1].values()
        assert split.content == file_of()


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
    for entries in ([], None):  # boxes alone, as some tools write them
        write("train.json", content := file_of())
        for entry in content["annotations"]:
            entry["segmentation"] = entries
        path.write_text(json.dumps(content))
        assert not check_one(path, None, CheckOptions()).refusals
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
