import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmconvnext.data.paths import metrics_of
from mmconvnext.engine import config as configs
from mmconvnext.errors import ConfigError


def write(tmp_path, text: str) -> str:
    path = tmp_path / "a_config.py"
    path.write_text(text)
    return str(path)


def test_loads_with_options(tmp_path):
    path = write(tmp_path, "a = dict(b=1, c=[dict(d=1)])\n")
    cfg = configs.load_config(path)
    assert configs.merge_options(cfg, None) == []
    assert configs.merge_options(cfg, {"a.b": 2, "a.c.0.d": 3}) == []
    assert (cfg.a.b, cfg.a.c) == (2, [{"d": 3}])
    for key in ("a.c.x", "a.c.2", "a.b.x"):
        with pytest.raises(ConfigError, match="--cfg-options does not fit"):
            configs.merge_options(cfg, {key: 3})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("modle.x.depth", " (did you mean model.x.depth?)"),
        ("model.x.detph", " (did you mean model.x.depth?)"),
        ("model.heads.0.weigth", " (did you mean model.heads.0.weight?)"),
        ("model.x.other", ""),
        ("else", ""),
    ],
)
def test_an_option_that_the_config_lacked_is_noted(key, hint):
    cfg = Config({"model": {"x": {"depth": 1}, "heads": [{"weight": 1}]}})
    notes = configs.merge_options(cfg, {"model.x.depth": 2, key: 3})
    assert notes == [f"--cfg-options: {key} is new, the config had no such key{hint}"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = dict(b=1\n", "does not parse: SyntaxError"),
        ("a = undefined_name\n", "does not parse: NameError.*undefined_name"),
        ("_base_ = './missing.py'\n", "does not parse: FileNotFoundError"),
        ("custom_imports = dict(imports=['no_such_module'])\n", "no_such_module"),
    ],
)
def test_a_config_that_does_not_parse_names_itself(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        configs.load_config(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "mmconvnext::"])
def test_configs_of_the_package_go_by_name(repo, tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    path = repo / "configs" / "mask_rcnn_convnext_t_coco.py"
    assert configs.load_config(f"{prefix}{path.stem}").filename == str(path)
    cfg = configs.load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    assert cfg.model.type == "FasterRCNN"
    Path(path.name).write_text("mine = True")  # a file comes before the name of a config
    assert configs.load_config(path.name).mine


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mmdet::x/none.py", r"none\.py"),
        ("mmpose::x/none.py", "mmpose"),  # not installed, which must not install it
        ("nobody::x/none.py", "nobody"),
        ("configs/mask_rcnn_convnext_v2_t_coco.py", " mask_rcnn_convnextv2_t_coco"),
    ],
)
def test_a_missing_config_is_named(name, says):
    with pytest.raises(ConfigError, match=f"no config file {name}, and .*{says}"):
        configs.load_config(name)


def test_data_root_replaces_every_path_under_it():
    def settings(root):
        return {
            "data_root": f"{root}/",
            "train_dataloader": {"dataset": {"data_root": f"{root}/", "ann_file": "ann/a.json"}},
            "val_evaluator": [{"ann_file": f"{root}/ann/b.json"}],
            "other": "data/coco_other/x",
        }

    cfg = Config({**settings("data/coco"), "datasets": ["data/coco"]})
    configs.set_data_root(cfg, "/mnt/coco")
    assert cfg.to_dict() == {**settings("/mnt/coco"), "datasets": ["/mnt/coco/"]}


def test_from_scratch_drops_every_pretrained_checkpoint():
    pretrained = {"type": "Pretrained", "checkpoint": "a.pth"}
    cfg = Config(
        {
            "load_from": "b.pth",
            "model": {
                "backbone": {"type": "ConvNeXt", "init_cfg": pretrained},
                "neck": {"init_cfg": {"type": "Xavier", "layer": "Conv2d"}},
                "head": {"init_cfg": [{"type": "Normal", "layer": "Conv2d"}, pretrained]},
            },
        }
    )
    assert configs.drop_pretrained(cfg) == ["b.pth", "a.pth", "a.pth"]
    assert cfg.load_from is None
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.neck.init_cfg.type == "Xavier"
    assert [entry.type for entry in cfg.model.head.init_cfg] == ["Normal"]


@pytest.mark.parametrize(
    ("checkpoint", "reported"),
    [
        ("a.pth", "a.pth"),
        (["a.pth"], "a.pth"),
        (["a.pth", "timm://b"], "a.pth and 1 alternative"),
        (("a.pth", "timm://b", "hf://c/d"), "a.pth and 2 alternatives"),
        ([], "[]"),
        (None, "None"),
    ],
)
def test_of_alternative_checkpoints_the_first_is_reported(checkpoint, reported):
    init_cfg = {"type": "Pretrained", "checkpoint": checkpoint}
    cfg = Config({"model": {"backbone": {"init_cfg": init_cfg}}})
    assert configs.drop_pretrained(cfg) == [reported]
    assert cfg.model.backbone.init_cfg is None


def test_work_dir_is_that_of_the_command_line_or_the_config():
    cfg = Config({}, filename=__file__)
    expected = "work_dirs/test_config"
    for argument in (None, "from_args", None, "other"):
        expected = argument or expected
        configs.set_work_dir(cfg, argument)
        assert cfg.work_dir == expected


def test_amp_and_lr_scaling():
    scaling = {"base_batch_size": 16}
    cfg = Config({"optim_wrapper": {"type": "OptimWrapper"}, "auto_scale_lr": scaling})
    configs.use_amp(cfg)
    configs.use_auto_scale_lr(cfg)
    assert cfg.optim_wrapper == {"type": "AmpOptimWrapper", "loss_scale": "dynamic"}
    assert cfg.auto_scale_lr.enable


SCALING = {"base_batch_size": 16, "enable": True}


@pytest.mark.parametrize(
    ("changes", "accumulated", "world_size", "note"),
    [
        ({}, 1, 2, r"meant for 16 .* with 4 images a step \(2 x 2\); --auto-scale-lr .* by 0.25"),
        ({}, 1, 8, None),
        ({}, 8, 1, None),
        (
            {},
            2,
            2,
            r"with 8 images .* 2 times\); --auto-scale-lr .* by 0\.5$",
        ),
        ({"auto_scale_lr": SCALING}, 1, 1, None),
        (
            {"auto_scale_lr": SCALING},
            4,
            2,
            r"multiplied by 1: 16 images .* 4 times\), meant for 16$",
        ),
        ({"auto_scale_lr": None}, 1, 1, None),
        ({"train_dataloader": {}}, 1, 1, None),
    ],
)
def test_a_learning_rate_for_another_batch_size_is_noted(changes, accumulated, world_size, note):
    settings = {"train_dataloader": {"batch_size": 2}, "auto_scale_lr": {"base_batch_size": 16}}
    if accumulated > 1:
        settings["optim_wrapper"] = {"accumulative_counts": accumulated}
    cfg = Config(settings | changes)
    notes = configs.explain_batch_size(cfg, world_size)
    assert len(notes) == (note is not None)
    assert all(re.search(note, line) for line in notes)


# of a test

TTA = {"tta_model": {"type": "InstanceTTAModel"}, "tta_pipeline": [{"type": "TestTimeAug"}]}


def test_tta_wraps_the_model_and_replaces_every_pipeline():
    datasets = [{"pipeline": []}, {"type": "Wrapper", "dataset": {"pipeline": []}}]
    dataset = {"type": "ConcatDataset", "datasets": datasets}
    cfg = Config({"model": {"type": "MaskRCNN"}, "test_dataloader": {"dataset": dataset}, **TTA})
    configs.use_tta(cfg)
    assert cfg.model == {"type": "InstanceTTAModel", "module": {"type": "MaskRCNN"}}
    one, two = cfg.test_dataloader.dataset.datasets
    assert one.pipeline == two.dataset.pipeline == cfg.tta_pipeline
    assert "pipeline" not in cfg.test_dataloader.dataset
    written = Config(cfg.to_dict())
    configs.use_tta(written)  # what such a test has left beside its log
    assert written.to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ("kind", "backend"), [("CocoMetric", "pycocotools"), ("FastCocoMetric", None)]
)
def test_classwise_asks_for_boxes_and_masks_apart(kind, backend):
    metric = {"type": kind, "metric": ["bbox", "segm"], "ann_file": "a"}
    for evaluator in ([{"type": "VOCMetric"}, metric], {"metrics": [metric]}):
        cfg = Config({"test_evaluator": evaluator})
        configs.ask_for_classwise(cfg)
        changed = metrics_of(cfg.test_evaluator)[-1]
        assert changed.get("backend") == backend
        asked = {**metric, "type": "FastCocoMetric", "classwise": "kinds"}
        assert {k: v for k, v in changed.items() if k != "backend"} == asked
    assert "dataset_prefixes" not in cfg.test_evaluator


def test_predictions_go_to_a_pickle_file():
    cfg = Config({"test_evaluator": {"type": "CocoMetric"}})
    configs.dump_predictions(cfg, "a.pkl")
    dump = {"type": "DumpDetResults", "out_file_path": "a.pkl"}
    assert cfg.test_evaluator == [{"type": "CocoMetric"}, dump]
    sets = {"type": "MultiDatasetsEvaluator", "metrics": [{"type": "CocoMetric"}]}
    cfg = Config({"test_evaluator": sets})
    configs.dump_predictions(cfg, "a.pkl")
    assert cfg.test_evaluator.type == "MultiDatasetsAndAllEvaluator"
    assert cfg.test_evaluator.metrics == [{"type": "CocoMetric"}, dump]


def test_pictures_go_to_the_folder_as_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config({"default_hooks": {"visualization": {"type": "DetVisualizationHook"}}})
    configs.draw_to(cfg, "pictures")
    assert cfg.default_hooks.visualization.draw
    for kind, chosen in (("DetLocalVisualizer", "ComparisonVisualizer"), ("Mine", "Mine")):
        cfg.visualizer = {"type": kind}
        configs.draw_to(cfg, "pictures")
        assert cfg.visualizer.type == chosen
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / "pictures")


NONE = {"auto_scale_lr": None, "optim_wrapper": None}


@pytest.mark.parametrize(
    ("change", "arguments", "settings", "says"),
    [
        (configs.set_data_root, ["/mnt/coco"], {}, "has none at its top level"),
        (configs.use_auto_scale_lr, [], {}, "base_batch_size"),
        (configs.use_auto_scale_lr, [], NONE, "base_batch_size"),
        (configs.use_amp, [], {}, "--amp needs an optim_wrapper"),
        (configs.use_amp, [], NONE, "--amp needs an optim_wrapper"),
        (configs.use_tta, [], {}, "tta_model and tta_pipeline and test_dataloader"),
        (configs.ask_for_classwise, [], {"test_evaluator": {"type": "VOCMetric"}}, "CocoMetric"),
        (configs.dump_predictions, ["a.json"], {}, r"--out a\.json: the file must end in \.pkl"),
        (configs.draw_to, ["pictures"], {}, "DetVisualizationHook"),
    ],
)
def test_a_config_without_what_it_takes_is_refused(change, arguments, settings, says):
    with pytest.raises(ConfigError, match=says):
        change(Config(settings), *arguments)


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder, not a config; .*--dataset"):
        configs.load_config(str(tmp_path))


def of_kind(cfg, kind):
    return [hook for hook in cfg.custom_hooks if hook.get("type") == kind]


@pytest.mark.parametrize(
    "own", [None, {"type": "EarlyStoppingHook", "monitor": "x", "patience": 7}]
)
@pytest.mark.parametrize("patience", [True, 3])
def test_early_stopping_goes_by_the_best_checkpoints_metric(own, patience):
    cfg = configs.load_config("mask_rcnn_convnext_shapes.py")
    cfg.custom_hooks += [own] if own else []
    configs.use_early_stopping(cfg, patience)
    (hook,) = of_kind(cfg, "EarlyStoppingHook")
    assert hook["monitor"] == ("x" if own else "coco/segm_mAP")
    assert hook["patience"] == (3 if patience == 3 else 7 if own else 5)
    assert len(of_kind(cfg, "NumClassCheckHook")) == 1


@pytest.mark.parametrize("place", ["custom_hooks", "default_hooks"])
def test_an_average_of_the_configs_own_is_kept(place):
    cfg = configs.load_config("rtmdet/rtmdet_convnext-t_coco.py")
    hooks = list(cfg.custom_hooks)
    if place == "default_hooks":
        (own,) = of_kind(cfg, "EMAHook")
        cfg.custom_hooks.remove(own)
        cfg.default_hooks.average = own
        hooks = list(cfg.custom_hooks)
    configs.use_ema(cfg, True)
    assert cfg.custom_hooks == hooks
    configs.use_ema(cfg, 0.01)
    assert "momentum=0.01" in cfg.pretty_text
    assert cfg.pretty_text.count("EMAHook") == 1


def test_an_average_is_added_where_there_is_none():
    cfg = Config({})
    configs.use_ema(cfg, 0.001)
    (hook,) = cfg.custom_hooks
    assert (hook.type, hook.ema_type, hook.momentum) == ("EMAHook", "ExpMomentumEMA", 0.001)


@pytest.mark.parametrize(
    ("use", "value", "says"),
    [
        (configs.use_early_stopping, 0, "--early-stopping 0: it takes one validation or more"),
        (configs.use_early_stopping, True, "save_best, which is None in .*: name a metric there"),
        (configs.use_ema, 0.0, "--ema 0.0: it takes the share of the new weights"),
        (configs.use_ema, 1.5, "--ema 1.5"),
    ],
)
def test_values_that_cannot_be_are_refused(use, value, says):
    cfg = configs.load_config("mask_rcnn_convnext_shapes.py")
    if value is True:
        cfg.default_hooks.checkpoint.save_best = None
    with pytest.raises(ConfigError, match=says):
        use(cfg, value)
