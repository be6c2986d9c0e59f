import json
from copy import deepcopy
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from mmconvnext.engine import device
from mmconvnext.engine.runner import DetectionRunner, build_runner
from mmconvnext.errors import ConfigError, DataError, UserError, WeightsError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    ],
    "categories": [{"id": 1, "name": "a"}],
}
TINY = {"type": "ConvNeXt", "arch": {"depths": (1, 1, 1, 1), "widths": (4, 4, 4, 4)}}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: "cpu")


def config(tmp_path, **changes) -> Config:
    """A run that has a backbone for a model and no data."""
    settings = {"model": TINY, "default_scope": "mmdet", "work_dir": str(tmp_path / "work")}
    # MMEngine keeps loggers by this name and the second that they are made in.
    settings["experiment_name"] = tmp_path.name
    path = tmp_path / "a_config.py"
    path.touch()
    return Config({**settings, **changes}, filename=str(path))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "epoch_3.pth"
    path.touch()
    return path


@pytest.fixture
def runner(tmp_path):
    return build_runner(config(tmp_path), ())


def test_a_runner_is_built_and_logs_what_it_was_given(tmp_path):
    cfg = config(tmp_path, optim_wrapper={"type": "AmpOptimWrapper", "optimizer": {"type": "SGD"}})
    cfg.update(train_cfg={"by_epoch": True, "max_epochs": 1}, train_dataloader={"dataset": {}})
    cfg.train_dataloader.batch_size, cfg.auto_scale_lr = 2, {"base_batch_size": 16}
    runner = build_runner(cfg, ("train", "val"), ["from scratch: not loading a.pth"])
    assert type(runner) is DetectionRunner
    (log,) = (tmp_path / "work").glob("*/*.log")
    text = log.read_text()
    assert text.index("from scratch: not loading a.pth") < text.index("AmpOptimWrapper -> Optim")
    assert "--auto-scale-lr multiplies it by 0.125" in text
    (info,) = (tmp_path / "work").glob("*/run.json")
    assert str(info) in text
    assert json.loads(info.read_text())["config"] == cfg.filename


def test_the_config_in_the_work_folder_is_that_of_the_last_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "train", lambda runner: runner.model)
    build_runner(config(tmp_path, note="trained"), ()).train()
    second = config(tmp_path, note="tested", experiment_name=f"{tmp_path.name}_2")
    tested = build_runner(second, ())
    assert "'trained'" in (tmp_path / "work" / "a_config.py").read_text()
    assert "'tested'" in Path(tested.log_dir, "a_config.py").read_text()


def test_a_checkpoint_of_the_detector_spares_that_of_the_backbone(tmp_path, checkpoint):
    pretrained = {"type": "Pretrained", "checkpoint": "https://no.such/a.pth"}
    cfg = config(tmp_path, model={**TINY, "init_cfg": pretrained}, load_from=str(checkpoint))
    assert build_runner(cfg, ()).model.init_cfg is None
    assert cfg.load_from == str(checkpoint)
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert f"{checkpoint}: not loading https://no.such/a.pth before it" in log.read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"type": "NoSuchModel"}}, "NoSuchModel is not in the mmdet::model registry"),
        ({"model": {**TINY, "no_such": 1}}, "unexpected keyword argument 'no_such'"),
        (
            {"model": {"type": "ConvNeXt", "arch": "tinny"}},
            "arch='tinny' is not a ConvNeXt variant",
        ),
        ({"model": {"arch": "tiny"}}, 'must contain the key "type"'),
        ({"custom_hooks": [{"type": "NoSuchHook"}]}, "NoSuchHook is not in the mmdet::hook"),
        ({"train_cfg": {"by_epoch": True}}, "train_dataloader, train_cfg, and optim_wrapper"),
        ({"runner_type": "NoSuchRunner"}, "NoSuchRunner is not in the runner registry"),
    ],
)
def test_what_cannot_be_built_names_the_config(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=r"^\S+/a_config\.py cannot be built: ") as caught:
        build_runner(config(tmp_path, **changes), ())
    assert says in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("error", [ConfigError("for users"), DataError("for users"), OSError("x")])
def test_errors_for_users_and_those_nobody_foresaw_stay_as_they_are(tmp_path, monkeypatch, error):
    monkeypatch.setattr(RUNNERS, "build", Mock(side_effect=error))
    with pytest.raises(type(error)) as caught:
        build_runner(config(tmp_path), ())
    assert caught.value is error


@pytest.mark.parametrize(
    ("split", "changes", "says"),
    [
        ("val", {"load_from": "none.pth"}, "there is no checkpoint none.pth"),
        ("val", {"val_dataloader": {"dataset": {"data_root": "/no/such"}}}, "data folder /no/such"),
        ("train", {"train_dataloader": None}, "has no train_dataloader: nothing to train on"),
        ("test", {}, "has no test_dataloader: nothing to test on"),
    ],
)
def test_files_and_settings_are_checked_before_anything_is_built(tmp_path, split, changes, says):
    with pytest.raises(UserError, match=says):
        build_runner(config(tmp_path, model={"type": "NoSuchModel"}, **changes), (split,))
    assert not (tmp_path / "work").exists()


# checkpoints that do not fit


def test_every_load_is_strict_and_reported(runner, tmp_path, notes):
    """More on what fits: tests/weights/test_detector.py."""
    state = runner.model.state_dict()
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}, "optimizer": {}}, path)
    for load in (runner.load_checkpoint, runner.resume, partial(load_for_test, runner)):
        with pytest.raises(WeightsError, match=r"from \S+other\.pth: no ConvNeXt of a known"):
            load(str(path))
    torch.save({"state_dict": state, "meta": {}}, path)
    runner.load_checkpoint(str(path))
    assert sum("loaded" in note and "100.00% of the parameters" in note for note in notes()) == 1
    with pytest.raises(UserError, match=r"other\.pth: it has no state of an opt.*load_from="):
        runner.resume(str(path))
    torch.save({f"net.{k}": v for k, v in state.items()}, path)
    runner.load_checkpoint(str(path), revise_keys=[(r"^net\.", "")])


def test_load_adapt_is_what_may_differ(runner, tmp_path):
    path = tmp_path / "other.pth"
    detector = Config({"model": {**TINY, "in_channels": 4}}).model
    torch.save(MODELS.build(detector).state_dict(), path)
    with pytest.raises(WeightsError, match="in_channels is 4 in the file and 3 in the backbone"):
        runner.load_checkpoint(str(path))
    runner.cfg.load_adapt = ["in_channels"]
    runner.load_checkpoint(str(path))
    with pytest.raises(WeightsError, match="in_channels"):
        load_for_test(runner, str(path))
    runner.load_checkpoint(str(path))  # after a test a training may adapt again


@pytest.mark.parametrize("new", [("cow", "cat", "pig"), ("dog", "cow", "cat")])
def test_rows_go_by_the_names_of_classes_where_there_are_as_many(tmp_path, new):
    """A box head whose shared layer, by chance, has as many rows as there are classes."""
    old, head = ("cat", "dog", "cow"), {"type": "Shared2FCBBoxHead", "fc_out_channels": 3}
    model = {**head, "num_classes": 3, "in_channels": 4, "roi_feat_size": 1}
    runner = build_runner(config(tmp_path, model=model, load_adapt=["num_classes"]), ())
    dataset = {"type": "CocoDataset", "ann_file": "a.json", "metainfo": {"classes": new}}
    runner.cfg.train_dataloader = {"dataset": dataset}
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    state = {k: torch.randn_like(v) for k, v in before.items()}
    meta = {"dataset_meta": {"classes": old}}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "other.pth")
    runner.load_checkpoint(str(tmp_path / "other.pth"))
    for key, value in runner.model.state_dict().items():
        if not key.startswith(("fc_cls", "fc_reg")):
            assert torch.equal(value, state[key])
            continue
        width = 4 if key.startswith("fc_reg") else 1
        ours, theirs, own = (v.unflatten(0, (-1, width)) for v in (value, state[key], before[key]))
        for index, name in enumerate(new):
            row = theirs[old.index(name)] if name in old else own[index]
            assert torch.equal(ours[index], row)
    shared = sum(name in old for name in new)
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert f"rows of {shared} of 3 classes are kept in 4 tensors" in log.read_text()


def test_hooks_change_what_is_loaded(runner, checkpoint):
    torch.save({"state_dict": runner.model.state_dict(), "meta": {}}, checkpoint)

    class Ones(Hook):
        def after_load_checkpoint(self, runner, checkpoint):
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: torch.ones_like(v) for k, v in state.items()}

    runner.register_hook(Ones())
    runner.load_checkpoint(str(checkpoint))
    assert all(bool((v == 1).all()) for v in runner.model.state_dict().values())


def test_of_several_sources_the_first_that_can_be_had_is_taken(tmp_path, notes):
    path = tmp_path / "there.pth"
    torch.save(MODELS.build(TINY).state_dict(), path)
    missing = str(tmp_path / "missing.pth")
    runner = build_runner(config(tmp_path, load_from=[missing, str(path)]), ())
    assert runner._load_from == str(path)
    assert any(f"trying {path}" in note for note in notes())


def load_for_test(runner, path):
    runner._load_from, runner._has_loaded = path, False
    runner._test_loop, runner.build_test_loop = Mock(), Mock()
    runner.test()


# settings that are built when the run starts


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("optim_wrapper", {"optimizer": {"type": "AdamWW", "lr": 1.0}}, "AdamWW is not in the"),
        ("optim_wrapper", {"optimizer": {"type": "SGD", "lr": 1.0, "no_such": 1}}, "'no_such'"),
        ("optim_wrapper", {"optimizer": {"type": "SGD", "lr": -1.0}}, "Invalid learning rate"),
        ("param_scheduler", {"type": "NoSuchLR"}, "NoSuchLR is not in the"),
    ],
)
def test_settings_of_the_training_that_cannot_be_built_are_named(
    runner, monkeypatch, setting, value, says
):
    monkeypatch.setattr(DetectionRunner, "train_dataloader", [1])
    runner.optim_wrapper = runner.build_optim_wrapper({"optimizer": {"type": "SGD", "lr": 1.0}})
    with pytest.raises(ConfigError, match=rf"^{setting} of \S+\.py cannot be built: .*{says}"):
        getattr(runner, f"build_{setting}")(value)
    # messages for users stay as they are
    layer_decay = {"constructor": "LayerDecayOptimWrapperConstructor", "paramwise_cfg": {"x": 1}}
    with pytest.raises(UserError, match=r"^(?!optim_wrapper)"):
        runner.build_optim_wrapper({"optimizer": {"type": "SGD", "lr": 1.0}, **layer_decay})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_settings_of_the_loops_that_cannot_be_built_are_named(runner, split):
    build = getattr(runner, f"build_{split}_loop")
    setattr(runner, f"_{split}_dataloader", DataLoader([1]))
    for loop, says in (
        ({"type": "NoSuchLoop"}, "NoSuchLoop is not in the"),
        ({"type": "EpochBasedTrainLoop", "max_epoch": 1}, "unexpected keyword .*'max_ep"),
    ):
        with pytest.raises(ConfigError, match=rf"^{split}_cfg of \S+ cannot be built: .*{says}"):
            build(loop)


def test_faults_of_the_data_are_not_those_of_the_loop(runner):
    runner._train_dataloader = {"no_such": 1}
    with pytest.raises(KeyError, match=r"^'dataset'$"):
        runner.build_train_loop({"type": "EpochBasedTrainLoop", "max_epochs": 1})


@pytest.mark.parametrize("split", ["train", "val"])
def test_heads_of_another_number_of_classes_are_named(runner, data, split):
    """With or without MMDetection's hook, which stops at the first one, later, without a fix."""
    head = nn.Module()
    head.num_classes = 80
    runner.model.heads = nn.ModuleList([head, deepcopy(head), nn.Identity()])
    setattr(runner, f"_{split}_dataloader", loader(data(COCO)))
    runner._val_evaluator = {"type": "DumpDetResults", "out_file_path": "a.pkl"}
    loop = {"type": "IterBasedTrainLoop", "max_iters": 1}
    if split == "val":
        loop = {"type": "ValLoop"}
    says = (
        "heads.0 has num_classes=80, heads.1 has num_classes=80, and .*a.json has 1 classes: "
        "--cfg-options model.heads.0.num_classes=1 model.heads.1.num_classes=1, or set metainfo"
    )
    build = getattr(runner, f"build_{split}_loop")
    with pytest.raises(ConfigError, match=says):
        build(loop)
    head.num_classes = runner.model.heads[1].num_classes = 1
    build(loop)


# data that cannot be used


@pytest.fixture
def data(tmp_path):
    """Call ``data(content)`` for a folder with an image and an annotation file of this content."""

    def write(content):
        (tmp_path / "a.json").write_text(json.dumps(content))
        (tmp_path / "a.jpg").touch()
        return tmp_path

    return write


def loader(root, **changes):
    dataset = {"type": "CocoDataset", "data_root": str(root), "ann_file": "a.json", "pipeline": []}
    dataset |= {"metainfo": {"classes": ("a",)}, "data_prefix": {"img": ""}, **changes}
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {"dataset": dataset, "sampler": sampler, "batch_size": 1, "num_workers": 0}


def test_a_file_that_a_data_set_misses_is_named(data):
    root = data(COCO)
    (root / "a.json").write_text("a\n")
    with pytest.raises(FileNotFoundError, match=r"a\.xml"):
        DetectionRunner.build_dataloader(loader(root, type="VOCDataset"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": "NoSuchDataset"}, "NoSuchDataset is not in the"),
        ({"no_such": 1}, "unexpected keyword.*'no_such'"),  # passed on by CocoDataset
        ({"pipeline": [{"type": "NoSuchTransform"}]}, "NoSuchTransform is not in the"),
        ({"pipeline": [{"type": "PackDetInputs", "no_such": 1}]}, "unexpected keyword.*'no_such'"),
        ({"pipeline": [{"no_such": 1}]}, 'must contain the key "type"'),
    ],
)
def test_settings_of_a_data_loader_that_cannot_be_built_are_named(data, changes, says):
    with pytest.raises(
        ConfigError, match=rf"^the data loader of a\.json cannot be built: .*{says}"
    ):
        DetectionRunner.build_dataloader(loader(data(COCO), **changes))


def test_data_sets_are_checked_when_they_are_built(data, monkeypatch):
    root = data(COCO)
    built = DetectionRunner.build_dataloader(loader(root))
    assert isinstance(built, DataLoader)
    assert len(built.dataset) == 1
    assert DetectionRunner.build_dataloader(built) is built
    with pytest.raises(DataError, match="has none of the classes b"):
        DetectionRunner.build_dataloader(loader(root, metainfo={"classes": ("b",)}))
    with pytest.raises(DataError, match=r"write \('ab',\)"):
        DetectionRunner.build_dataloader(loader(root, metainfo={"classes": ("ab")}))
    (root / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg, an image of .*a\.json, does not exist"):
        DetectionRunner.build_dataloader(loader(root))

    fault = KeyError("a fault of the file")
    monkeypatch.setattr(CocoDataset, "load_data_list", Mock(side_effect=fault))
    with pytest.raises(KeyError, match="a fault of the file"):
        DetectionRunner.build_dataloader(loader(root))


def test_metrics_are_built_and_wrong_settings_are_named(runner, data):
    path = str(data(COCO) / "a.json")
    evaluator = runner.build_evaluator({"type": "CocoMetric", "ann_file": path})
    assert type(evaluator.metrics[0]).__name__ == "CocoMetric"
    with pytest.raises(ConfigError, match=r"evaluator of \S+ cannot .*metric should be one of"):
        runner.build_evaluator({"type": "CocoMetric", "ann_file": path, "metric": "no_such"})


@pytest.mark.parametrize(("accumulated", "factor"), [(1, 0.25), (4, 1)])
def test_scaling_the_learning_rate_counts_accumulated_gradients(runner, accumulated, factor):
    runner.cfg.optim_wrapper = {"accumulative_counts": accumulated}
    runner._train_dataloader = {"batch_size": 4}
    wrapper = OptimWrapper(SGD(nn.Linear(1, 1).parameters(), lr=0.1))
    runner.scale_lr(wrapper, {"base_batch_size": 16, "enable": False})
    runner.scale_lr(wrapper, {"base_batch_size": 16, "enable": True})
    assert wrapper.param_groups[0]["lr"] == pytest.approx(0.1 * factor)
