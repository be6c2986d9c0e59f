import pytest
from mmengine.config import Config

from mmconvnext.engine import config as configs
from mmconvnext.errors import ConfigError


def write(tmp_path, text: str) -> str:
    path = tmp_path / "a_config.py"
    path.write_text(text)
    return str(path)


def test_loads_with_options(tmp_path):
    path = write(tmp_path, "a = dict(b=1, c=[1, 2])\n")
    cfg = configs.load_config(path, {"a.b": 2})
    assert (cfg.a.b, cfg.a.c) == (2, [1, 2])


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


def test_a_missing_config_is_named():
    with pytest.raises(ConfigError, match=r"no config file no/such\.py"):
        configs.load_config("no/such.py")


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--cfg-options does not fit"):
        configs.load_config(write(tmp_path, "a = [1, 2]\n"), {"a.x": 3})


def test_data_root_replaces_every_path_under_it():
    cfg = Config(
        {
            "data_root": "data/coco/",
            "train_dataloader": {"dataset": {"data_root": "data/coco/", "ann_file": "ann/a.json"}},
            "val_dataloader": {"dataset": {"datasets": [{"data_root": "data/coco"}]}},
            "val_evaluator": [{"ann_file": "data/coco/ann/b.json"}],
            "other": "data/coco_other/x",
        }
    )
    configs.set_data_root(cfg, "/mnt/coco")
    assert cfg.data_root == "/mnt/coco/"
    assert cfg.train_dataloader.dataset == {"data_root": "/mnt/coco/", "ann_file": "ann/a.json"}
    assert cfg.val_dataloader.dataset.datasets[0].data_root == "/mnt/coco/"
    assert cfg.val_evaluator[0].ann_file == "/mnt/coco/ann/b.json"
    assert cfg.other == "data/coco_other/x"


def test_data_root_needs_one_in_the_config():
    with pytest.raises(ConfigError, match="has none at its top level"):
        configs.set_data_root(Config({}), "/mnt/coco")


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


def test_work_dir_prefers_the_command_line_then_the_config_then_its_name(tmp_path):
    cfg = configs.load_config(write(tmp_path, "work_dir = 'from_config'\n"))
    configs.set_work_dir(cfg, "from_args")
    assert cfg.work_dir == "from_args"
    cfg = configs.load_config(write(tmp_path, "work_dir = 'from_config'\n"))
    configs.set_work_dir(cfg, None)
    assert cfg.work_dir == "from_config"
    cfg = configs.load_config(write(tmp_path, "a = 1\n"))
    configs.set_work_dir(cfg, None)
    assert cfg.work_dir == "work_dirs/a_config"


def test_amp_and_lr_scaling():
    cfg = Config(
        {"optim_wrapper": {"type": "OptimWrapper"}, "auto_scale_lr": {"base_batch_size": 16}}
    )
    configs.use_amp(cfg)
    configs.use_auto_scale_lr(cfg)
    assert cfg.optim_wrapper == {"type": "AmpOptimWrapper", "loss_scale": "dynamic"}
    assert cfg.auto_scale_lr.enable
    for empty in ({}, {"auto_scale_lr": None, "optim_wrapper": None}):
        with pytest.raises(ConfigError, match="base_batch_size"):
            configs.use_auto_scale_lr(Config(empty))
        with pytest.raises(ConfigError, match="--amp needs an optim_wrapper"):
            configs.use_amp(Config(empty))


def test_tta_wraps_the_model_and_replaces_the_innermost_pipeline():
    cfg = Config(
        {
            "model": {"type": "MaskRCNN"},
            "tta_model": {"type": "InstanceTTAModel"},
            "tta_pipeline": [{"type": "TestTimeAug"}],
            "test_dataloader": {"dataset": {"type": "Wrapper", "dataset": {"pipeline": []}}},
        }
    )
    configs.use_tta(cfg)
    assert cfg.model == {"type": "InstanceTTAModel", "module": {"type": "MaskRCNN"}}
    assert cfg.test_dataloader.dataset.dataset.pipeline == cfg.tta_pipeline
    with pytest.raises(ConfigError, match="tta_model and tta_pipeline and test_dataloader"):
        configs.use_tta(Config({"model": {}}))


def test_types_are_replaced_wherever_they_are():
    cfg = Config({"model": {"a": [{"norm_cfg": {"type": "SyncBN"}}], "b": {"type": "BN"}}})
    assert configs.replace_types(cfg, ["SyncBN"], "BN") == 1
    assert cfg.model.a[0].norm_cfg.type == "BN"
