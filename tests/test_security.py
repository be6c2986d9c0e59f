"""Nothing that a file or an option brings along is run, by any command (SECURITY.md)."""

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config

from mmconvnext.cli import main
from mmconvnext.compat.option_names import GIVEN
from mmconvnext.data import generate_shapes
from mmconvnext.data.paths import check_data_paths
from mmconvnext.engine.config import load_config, merge_options
from mmconvnext.errors import ConfigError, DataError, UserError
from tests.compat.test_checkpoint_io import Call

REPO = Path(__file__).parents[1]
CONFIG = "mask_rcnn_convnext_shapes"
RUN = f"{CONFIG} --data-root DATA --work-dir WORK"
INIT = (
    "--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE"
)
COMMANDS = (
    f"train {RUN} --resume FILE",
    f"train {RUN} --cfg-options load_from=FILE",
    f"test {CONFIG} FILE --data-root DATA --work-dir WORK",
    f"predict {CONFIG} FILE DATA/val --out OUT",
    f"prune {CONFIG} FILE --data-root DATA --keep 0.7 --out OUT",
    f"quantize {CONFIG} FILE --data-root DATA --to fp16 --out OUT.xml",
    f"prelabel {CONFIG} FILE DATA/val OUT --to coco",
    f"serve {CONFIG} FILE --port 0",
    "classify FILE --data DATA",
    "weights inspect FILE",
    "weights convert FILE OUT.safetensors",
    f"weights verify {CONFIG} {INIT}",
    f"weights verify {CONFIG} --cfg-options load_from=FILE",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, num_train=2, num_val=2)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(params=["pickle", "config text"])
def hostile(request, folder) -> Path:
    """A file that makes a folder ``mark`` where it is unpickled, or where its text is parsed."""
    mark = folder / "mark"
    text = f"x = [__import__('os').makedirs({str(mark)!r})]"
    content = {
        "state_dict": {"backbone.downsample_layers.0.0.weight": torch.ones(4, 3, 4, 4)},
        "optimizer": {"state": {}, "param_groups": []},
        "meta": {"config": text, "cfg": text, "epoch": 1, "iter": 1, "CLASSES": ("a",)},
        "message_hub": {"runtime_info": {"cfg": text}},
    }
    if request.param != "config text":
        content["more"] = Call(os.makedirs, str(mark))
    path = folder / "hostile.pth"
    torch.save(content, path)
    yield path
    assert not mark.exists()
    loaded = torch.load(path, weights_only=False)  # it is as hostile as it says
    if request.param == "config text":
        Config.fromstring(loaded["meta"]["config"], ".py")
    mark.rmdir()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_file_brings(command, hostile, data, tmp_path):
    places = {"FILE": hostile, "DATA": data, "WORK": tmp_path / "work", "OUT": tmp_path / "out"}
    for name, path in places.items():
        command = command.replace(name, str(path))
    assert main(command.split()) == 1


@pytest.mark.parametrize("how", ["DetInferencer", "init_detector"])
def test_mmdetection_runs_nothing_either(how, hostile):
    load = {
        "DetInferencer": lambda: DetInferencer(weights=str(hostile), device="cpu"),
        "init_detector": lambda: init_detector(load_config(CONFIG), str(hostile), device="cpu"),
    }[how]
    with pytest.raises((UserError, ValueError, KeyError)):
        load()


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that can be imported, and makes a file then."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')\nclass Evil: pass\n"
    (tmp_path / "evil").mkdir()
    for name in ("__init__", "registry"):
        (tmp_path / "evil" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    assert not mark.exists()
    GIVEN.clear()


TRAIN = f"train {CONFIG} --data-root DATA --work-dir work --from-scratch --cfg-options"
VERIFY = f"weights verify {CONFIG} --cfg-options"
NAMED = (
    f"{VERIFY} model.backbone.type=evil.Evil",
    f"{VERIFY} model.backbone.type=evil",
    f"{VERIFY} model.type=mmengine.load",
    f"{VERIFY} model.neck.norm_cfg.type=subprocess.Popen",
    f"{VERIFY} model.backbone._scope_=evil",
    f"{VERIFY} default_scope=evil",
    f"{VERIFY} custom_imports.imports=[evil]",
    f"{VERIFY} custom_imports=evil",
    f"{TRAIN} train_dataloader.dataset.pipeline.0.type=os.system",
    f"{TRAIN} optim_wrapper.constructor=evil.Evil",
)


@pytest.mark.parametrize("command", NAMED)
def test_options_name_what_registries_hold(command, evil, data, capsys):
    assert main(command.replace("DATA", str(data)).split()) == 1
    assert "allow it with --allow-imports" in capsys.readouterr().err


def test_options_within_lists_and_dicts_are_looked_at(evil):
    cfg = load_config(CONFIG)
    hooks = [{"type": "EMAHook", "ema_type": "evil.Evil"}]
    merge_options(cfg, {"custom_hooks": hooks})
    assert "evil.Evil" in GIVEN
    with pytest.raises(ConfigError, match="_scope_=evil would import"):
        merge_options(cfg, {"model.backbone": {"x": [{"_scope_": "evil"}]}})


def test_a_flag_allows_them(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_for_options.py").write_text("from mmconvnext import ConvNeXt as Mine")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--cfg-options", "model.backbone.type=mine_for_options.Mine"]
    options += ["model.backbone.init_cfg=None"]
    assert main(["weights", "verify", CONFIG, *options]) == 1
    assert "--allow-imports" in capsys.readouterr().err
    assert main(["weights", "verify", CONFIG, "--allow-imports", *options]) == 0
    # what is registered is a name like any other
    for name in ("mmconvnext.models.convnext.ConvNeXt", "mmdet.ResNet", "ConvNeXt"):
        merge_options(cfg := load_config(CONFIG), {"model.backbone.type": name})
        from mmdet.registry import MODELS

        assert MODELS.get(cfg.model.backbone.type)
    GIVEN.clear()


def test_yaml_configs_have_no_objects(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "config.yaml"
    path.write_text(f"a: !!python/object/apply:os.makedirs [{mark}]")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(str(path))
    assert not mark.exists()
    path.write_text("a: [1, {b: text}]")
    assert load_config(str(path)).a[1].b == "text"


def test_nothing_builds_a_shell_line():
    calls = [
        (path.name, ast.unparse(node.func), [word.arg for word in node.keywords])
        for folder in ("mmconvnext", "tools", "benchmarks")
        for path in (REPO / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    names = ("os.system", "os.popen", "subprocess.getoutput", "eval", "exec")
    assert [call for call in calls if call[1] in names or "shell" in call[2]] == []


def test_a_pickle_is_no_annotation_file(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Call(os.makedirs, str(mark))))
    cfg = load_config(CONFIG)
    for name in ("ann_file", "proposal_file"):
        dataset = {"type": "BaseDetDataset", name: str(tmp_path / "a.pkl")}
        cfg.merge_from_dict({"train_dataloader": {"dataset": {"_delete_": True, **dataset}}})
        with pytest.raises(DataError, match=rf"{name}=.*a\.pkl is a pickle, .* allow_pickle=True"):
            check_data_paths(cfg, ("train",))
    cfg.allow_pickle = True
    check_data_paths(cfg, ("train",))
    assert not mark.exists()
