"""Pointing configs at somebody's folder, and saying classes once."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from mmconvnext.cli import main
from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data.formats.common import Labelled, Shape, make_splits
from mmconvnext.data.prepare import prepare_data
from mmconvnext.engine.classes import palette_of, set_ann_files
from mmconvnext.engine.config import load_config, merge_options
from mmconvnext.engine.own_data import difference, use_dataset, write_config
from mmconvnext.errors import ConfigError, DataError
from mmconvnext.weights.load import write_safetensors

NAMES = ("große Scheibe", "三角", 'it\'s a "cross"')
# One of each kind; the others differ in backbones alone.
CONFIGS = (
    "cascade_convnext_t_coco",
    "cascade_convnext_overfit",
    "mask_rcnn_convnextv2_atto_coco",
    "mask_rcnn_convnext_shapes",
)


def make_folder(root: Path, names=NAMES, count=6, polygons=True) -> Path:
    """A folder as Roboflow exports it: one split, ids from 0, a category without objects."""
    folder = root / "train"
    folder.mkdir(parents=True)
    random, pictures = np.random.default_rng(0), []
    for index in range(count):
        pixels = random.integers(0, 255, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        shapes = []
        for number, name in enumerate(names):
            x = 2 + 30 * (number % 3)
            square = [x, 10, x + 25, 10, x + 25, 40, x, 40]
            shapes.append(Shape(name, [square] if polygons else (), [x, 10, 25, 30]))
        pictures.append(Labelled("train", f"{index}.png", (96, 64), shapes))
    content = make_splits(pictures, folder, names)["train"].content
    for key, reference in (("images", "image_id"), ("annotations", None)):
        for entry in content[key]:
            entry["id"] -= 1
        for entry in content["annotations"] if reference else ():
            entry[reference] -= 1
    content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
    for category in content["categories"][1:]:
        category["supercategory"] = "things"
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("own") / "my pictures")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("boxes"), polygons=False)


def numbers_of(node, path="") -> dict[str, int]:
    """Every num_classes of a model, by its path."""
    found = {}
    items = node.items() if isinstance(node, dict) else enumerate(node or ())
    for key, value in items:
        if key == "num_classes":
            found[path] = value
        elif isinstance(value, dict | list | tuple):
            found |= numbers_of(value, f"{path}.{key}")
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_any_config_takes_a_folder_and_the_written_one_says_the_same(name, folder, tmp_path):
    cfg = load_config(name)
    chosen = use_dataset(cfg, folder, tmp_path / "dataset")
    numbers = numbers_of(cfg.model)
    assert set(numbers.values()) == {3}
    assert len(numbers) == 4 if "cascade" in name else 2
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.metainfo.classes == NAMES
        assert cfg.get("metainfo", dataset.metainfo) == dataset.metainfo
        assert len(dataset.metainfo.palette) == 3
        assert (folder / dataset.data_prefix.img).samefile(folder / "train")
        if split != "train":
            assert cfg[f"{split}_evaluator"].ann_file == dataset.ann_file
    assert "| 三角" in chosen.table
    write_config(cfg, name, tmp_path / "written.py")
    text = (tmp_path / "written.py").read_text()
    assert text.startswith(f"_base_ = 'mmconvnext::{name}'")
    assert load_config(str(tmp_path / "written.py")).to_dict() == cfg.to_dict()
    assert Config.fromfile(tmp_path / "written.py").to_dict() == cfg.to_dict()  # and by MMEngine


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mask_rcnn_convnext_shapes", "FasterRCNN"), ("cascade_convnext_shapes", "CascadeRCNN")],
)
def test_boxes_without_masks_need_no_mask_head(name, kind, boxes, tmp_path):
    cfg = load_config(name)
    chosen = use_dataset(cfg, boxes, tmp_path)
    assert cfg.model.type == kind
    assert sum("boxes without masks" in note for note in chosen.notes) == 1
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == "bbox"
    assert "with_mask=True" not in cfg.pretty_text
    model = MODELS.build(cfg.model)
    assert not model.with_mask
    write_config(cfg, name, tmp_path / "written.py")
    assert load_config(str(tmp_path / "written.py")).to_dict() == cfg.to_dict()
    data = prepare_data(cfg, ("train", "val", "test"))
    assert data.refusals == []


def test_a_detector_that_learns_masks_in_another_way_refuses_boxes(boxes, tmp_path):
    cfg = load_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py")
    with pytest.raises(ConfigError, match=r"Mask2Former of .* learns masks"):
        use_dataset(cfg, boxes, tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", {}),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", {".bbox_head": 3}),
        ("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", {".bbox_head": 3}),
    ],
)
def test_configs_of_mmdetection_take_it_too(name, expected, folder, tmp_path):
    cfg = load_config(name)
    use_dataset(cfg, folder, tmp_path)
    assert numbers_of(cfg.model) == expected
    head = cfg.model.get("panoptic_head")
    if head:
        assert (head.num_things_classes, head.num_stuff_classes) == (3, 0)
        assert head.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]
        assert cfg.model.panoptic_fusion_head.num_things_classes == 3


def test_a_detector_keeps_its_classes_in_a_test(folder, tmp_path):
    cfg = load_config("mask_rcnn_convnext_shapes")
    labels = ("car", *reversed(NAMES))
    use_dataset(cfg, folder, tmp_path, labels, trains=False)
    assert cfg.test_dataloader.dataset.metainfo.classes == labels
    assert set(numbers_of(cfg.model).values()) == {4}
    with pytest.raises(DataError, match=r"has no class 'große Scheibe', but 1 others"):
        use_dataset(cfg, folder, tmp_path, ("car",), trains=False)


def test_ids_that_are_moved_are_said(folder, tmp_path):
    notes = use_dataset(load_config("mask_rcnn_convnext_shapes"), folder, tmp_path).notes
    moved = [note for note in notes if "ids that started at 0 are one higher in" in note]
    assert moved
    assert all(str(tmp_path) in note for note in moved)


def test_a_config_chooses_some_of_the_classes(folder, tmp_path):
    cfg = load_config("mask_rcnn_convnext_shapes")
    cfg.classes = NAMES[2:0:-1]
    notes = use_dataset(cfg, folder, tmp_path).notes
    assert cfg.train_dataloader.dataset.metainfo.classes == NAMES[2:0:-1]
    assert set(numbers_of(cfg.model).values()) == {2}
    assert any(f"lacks them: {NAMES[0]!r}" in note for note in notes)
    cfg.classes = ("disk",)
    with pytest.raises(
        DataError, match=r"has no class 'disk', which .*it has 'große Scheibe', '三"
    ):
        use_dataset(cfg, folder, tmp_path)
    cfg.classes = ("Grosse Scheibe",)
    with pytest.raises(DataError, match=r"'Grosse Scheibe' \(did you mean 'große Scheibe'\?\)"):
        use_dataset(cfg, folder, tmp_path)


def test_rows_of_another_detector_are_asked_for(folder, tmp_path):
    cfg = load_config("mask_rcnn_convnext_shapes")
    cfg.load_from = "detector.pth"
    chosen = use_dataset(cfg, folder, tmp_path)
    assert cfg.load_adapt == ["num_classes"]
    assert any("load_adapt" in note for note in chosen.notes)


def test_what_cannot_be_trained_on_is_named(folder, tmp_path):
    cfg = load_config("mask_rcnn_convnext_shapes")
    with pytest.raises(DataError, match="there is no such folder"):
        use_dataset(cfg, tmp_path / "none", tmp_path)
    cfg.test_evaluator.type = "VOCMetric"
    with pytest.raises(ConfigError, match="VOCMetric; --dataset needs FastCocoMetric"):
        use_dataset(cfg, folder, tmp_path)
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {"type": "ConcatDataset", "datasets": [leaf, dict(leaf)]}
    with pytest.raises(ConfigError, match=r"train_dataloader of .* has 2 data sets"):
        use_dataset(cfg, folder, tmp_path)


def test_only_val_is_enough_for_a_test(folder, tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    (root / "valid").symlink_to(folder / "train")
    cfg = load_config("mask_rcnn_convnext_shapes")
    with pytest.raises(DataError, match="no training split"):
        use_dataset(cfg, root, out)
    use_dataset(cfg, root, out, trains=False)
    assert cfg.test_dataloader.dataset.ann_file == cfg.val_dataloader.dataset.ann_file


def test_check_data_takes_a_folder(folder, capsys):
    config = "mask_rcnn_convnext_shapes"
    assert main(["check-data", config, "--dataset", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "there is no val split" in out
    assert "| 三角" in out
    assert "annotation files that can be used: 2\n" in out  # test is val
    with pytest.raises(SystemExit):
        main(["check-data", config, "--dataset", str(folder), "--data-root", "."])
    assert "not allowed with" in capsys.readouterr().err


def test_a_difference_is_what_mmengine_merges():
    old = {"a": {"b": 1, "c": 2}, "d": [1], "e": {"f": 1}, "g": 1}
    new = {"a": {"b": 1, "c": 3, "x": 1}, "d": {"y": 1}, "e": {"z": 1}, "g": 1}
    assert difference(old, new) == {
        "a": {"c": 3, "x": 1},
        "d": {"_delete_": True, "y": 1},
        "e": {"_delete_": True, "z": 1},
    }


def test_classes_are_said_once_in_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "_base_ = 'mmconvnext::cascade_convnext_t_coco'\n"
        "data_root = '/data/mine/'\n"
        "classes = ('cat', 'dog')\n"
        "ann_files = dict(train='a.json', val='b.json')\n"
        "train_dataloader = dict(dataset=dict(data_root=data_root))\n"
        "val_dataloader = dict(dataset=dict(data_root=data_root))\n"
        "test_dataloader = val_dataloader\n"
    )
    cfg = load_config(str(path))
    assert list(numbers_of(cfg.model).values()) == [2] * 4
    for split, name in (("train", "a.json"), ("val", "b.json"), ("test", "b.json")):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.ann_file == name
        assert dataset.metainfo.classes == ("cat", "dog")
        if split != "train":
            assert cfg[f"{split}_evaluator"].ann_file == f"/data/mine/{name}"
    merge_options(cfg, {"classes": ["cat", "dog", "cow"]})
    assert list(numbers_of(cfg.model).values()) == [3] * 4


def test_files_of_splits_that_the_config_lacks_are_left_out():
    cfg = load_config("mask_rcnn_convnext_shapes")
    for key in ("val_dataloader", "val_evaluator", "val_cfg", "test_dataloader", "test_evaluator"):
        cfg[key] = None
    set_ann_files(cfg, {"train": "a.json", "val": "b.json"})
    assert cfg.train_dataloader.dataset.ann_file == "a.json"
    cfg = load_config("mask_rcnn_convnext_shapes")
    del cfg.val_evaluator["ann_file"]
    set_ann_files(cfg, {"val": "b.json"})
    assert cfg.val_dataloader.dataset.ann_file == "b.json"
    assert "ann_file" not in cfg.val_evaluator


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("classes = 'cat'", "must be a tuple of names"),
        ("classes = (1, 2)", "must be a tuple of names"),
        ("classes = ('cat', 'cat')", "has 'cat' twice"),
        ("ann_files = 'a.json'", r"must be dict\(train="),
        ("ann_files = dict(training='a.json')", r"must be dict\(train="),
    ],
)
def test_wrong_classes_and_files_are_refused(line, says, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = 'mmconvnext::mask_rcnn_convnext_shapes'\n{line}\n")
    with pytest.raises(ConfigError, match=says):
        load_config(str(path))


def test_a_palette_of_the_config_is_kept():
    cfg = load_config("mask_rcnn_convnext_shapes")
    before = cfg.val_dataloader.dataset.metainfo.palette
    merge_options(cfg, {"classes": ["x", "y", "z"]})
    assert cfg.val_dataloader.dataset.metainfo.palette == before
    assert len(set(palette_of(200))) == 200


def test_one_command_trains_and_one_tests(boxes, tmp_path, capsys):
    work_dir = tmp_path / "work"
    name = "mask_rcnn_convnext_shapes"
    arguments = [name, "--dataset", str(boxes), "--work-dir", str(work_dir)]
    assert main(["train", *arguments, "--time", "0.1s"]) == 0
    log = next(work_dir.glob("*/*.log")).read_text()
    for line in (
        "boxes without masks",
        "there is no val split",
        "| 三角",
        "0.1 s are over after 1 of",
    ):
        assert line in log
    written = load_config(str(work_dir / f"{name}_train_on_dataset.py"))
    assert written.train_dataloader.dataset.metainfo.classes == NAMES
    assert Path(written.train_dataloader.dataset.ann_file).is_file()
    (command,) = re.findall(r"To go on.*: mmconvnext (.*)", log)
    assert main(shlex.split(command)) == 0
    assert [path.name for path in work_dir.glob("iter_*.pth")] == ["iter_2.pth"]
    state = read_checkpoint(work_dir / "iter_2.pth")["state_dict"]
    weights = write_safetensors(work_dir / "weights.safetensors", state, {})
    assert main(["test", name, str(weights), *arguments[1:]]) == 0
    assert "COCO, 0-100" in capsys.readouterr().out
    assert json.loads((work_dir / "result.json").read_text())["metrics"].keys() >= {"bbox_mAP"}
