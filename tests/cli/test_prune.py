"""`mmconvnext prune` from a detector to the config and the checkpoint of a smaller one."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmconvnext.cli import main as run
from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.data import CLASSES, generate_shapes
from mmconvnext.engine.config import load_config
from mmconvnext.engine.pruning import retraining_config
from mmconvnext.engine.run_dir import find_run

ARCH = {"_delete_": True, "depths": (1, 2, 2, 1), "widths": (8, 16, 24, 32)}
TINY = {
    "model.backbone.arch": ARCH,
    "model.neck.in_channels": [8, 16, 24, 32],
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, num_train=4, num_val=2, image_size=96)
    return root


@pytest.fixture(scope="module")
def detector(tmp_path_factory, data):
    """A config and a checkpoint, in a folder as a training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    init_default_scope("mmdet")
    cfg = load_config("mask_rcnn_convnext_shapes.py")
    cfg.merge_from_dict({**TINY, "work_dir": str(folder)})
    cfg.dump(folder / "tiny.py")
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"meta": meta, "state_dict": state}, folder / "iter_1.pth")
    return folder


def test_it_prunes_by_the_training_data_and_trains_on(main, detector, data, tmp_path):
    out = tmp_path / "pruned"
    options = ["--keep", 0.7, "--batches", 2, "--data-root", data, "--out", out]
    output = main("prune", detector, *options)
    config, checkpoint = out / "tiny_pruned.py", out / "pruned.pth"
    assert f"mmconvnext test {config} {checkpoint}" in output
    assert find_run(out) == (config, checkpoint)
    text, cfg = config.read_text(), load_config(str(config))
    assert text.startswith("# tiny.py, pruned by `mmconvnext prune` to 6")
    assert "_base_" not in text  # of a work folder, which may be gone one day
    assert cfg.get("work_dir") is None
    arch = cfg.model.backbone.arch
    content = read_checkpoint(checkpoint)
    assert content["meta"]["pruned"]["arch"]["hidden"] == arch["hidden"]
    assert content["meta"]["dataset_meta"]["classes"] == CLASSES
    assert content["meta"]["pruned"]["checkpoint"] == "iter_1.pth"
    row = next(line for line in output.splitlines() if "backbone, multiply-adds" in line)
    assert float(row.split("|")[-2].strip(" %")) <= 70
    assert "pruned to" in main("weights", "inspect", checkpoint)
    main("weights", "verify", config)  # which raises where it does not load
    short = ["train_cfg.max_iters=1", "train_cfg.val_begin=9"]
    main("train", config, "--work-dir", tmp_path / "train", "--cfg-options", *short)
    trained = read_checkpoint(tmp_path / "train" / "iter_1.pth")["state_dict"]
    assert {k: v.shape for k, v in trained.items()} == {
        k: v.shape for k, v in content["state_dict"].items()
    }


def test_importance_by_norms_needs_no_data_and_a_config_inherits(main, detector, tmp_path):
    out = tmp_path / "pruned"
    arguments = [detector / "tiny.py", detector / "iter_1.pth", "--importance", "magnitude"]
    main("prune", *arguments, "--data-root", tmp_path, "--keep", 0.6, "--out", out)
    assert f"_base_ = '{detector / 'tiny.py'}'" in (out / "tiny_pruned.py").read_text()
    assert load_config(str(out / "tiny_pruned.py")).model.backbone.arch["depths"][0] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--keep", "0.01"], "--keep 0.01 must be a share of the backbone's multiply-adds"),
        (["--keep", "0.7", "--batches", "0"], "--batches 0 must be 1 or more"),
        (["--keep", "0.7", "--out", "{}"], "is not an empty folder"),
    ],
)
def test_mistakes_are_named(capsys, detector, options, says):
    assert run(["prune", str(detector), *(each.format(detector) for each in options)]) == 1
    assert says in capsys.readouterr().err
    assert not list(detector.glob("pruned*"))


def test_the_schedule_is_a_third_of_the_recipe(tmp_path):
    cfg = load_config("mask_rcnn_convnext_t_coco.py")
    cfg.optim_wrapper.paramwise_cfg.num_layers = 6
    arch = {"depths": (1, 1, 1, 1), "widths": (96, 192, 384, 768), "hidden": ((8,),) * 4}
    shorter = retraining_config(cfg, arch, tmp_path)
    assert (shorter.train_cfg.max_epochs, shorter.train_cfg.val_interval) == (12, 1)
    warmup, steps = shorter.param_scheduler
    assert (warmup.end, steps.end, steps.milestones) == (1000, 12, [9, 11])
    assert shorter.optim_wrapper.optimizer.lr == 0.1 * cfg.optim_wrapper.optimizer.lr
    assert shorter.optim_wrapper.paramwise_cfg.num_layers == "auto"
    assert shorter.model.backbone.init_cfg is None
    assert shorter.load_from == str(tmp_path / "pruned.pth")
    assert cfg.train_cfg.max_epochs == 36
