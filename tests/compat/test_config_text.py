"""A run that mmengine saves is resumed; no text in it is run, wherever MMEngine would parse it."""

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer, infer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

import mmconvnext
from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.compat.config_text import read_settings
from mmconvnext.errors import UnreadableCheckpointError
from tests.compat.test_checkpoint_io import Call

RUNS_CODE = (
    "for x in [open({mark!r}, 'w')]: pass",
    "x = __import__('pathlib').Path({mark!r}).touch()",
    "x = [open({mark!r}, 'w')]",
    "x = dict(a=open({mark!r}, 'w'))",
    "_base_ = {evil!r}",
    "custom_imports = dict(imports=['evil_module'])",
    "x = '{{{{ $NO_SUCH_VARIABLE:' + str(open({mark!r}, 'w')) + ' }}}}'",
    "x = f\"{{open({mark!r}, 'w')}}\"",
    "def f(x=open({mark!r}, 'w')): pass",
    "class X(metaclass=open({mark!r}, 'w')): pass",
)


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode="loss"):
        return {"loss": self.layer(x).square().mean()}


def make_runner(folder, epochs: int, **options) -> Runner:
    points = [{"x": torch.full((2,), i / 4)} for i in range(4)]
    return Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=points,
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=2,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2),
            dict(type="MultiStepLR", milestones=[1, 2]),
        ],
        default_scope="mmengine",
        log_level="WARNING",
        experiment_name=f"resume_{epochs}",
        cfg={"a_setting": 1},
        **options,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    """A checkpoint after two epochs, with numpy's numbers in the log as metrics leave them."""
    folder = tmp_path_factory.mktemp("run")
    runner = make_runner(folder, epochs=2)
    runner.message_hub.update_info("best", np.float64(0.25))
    runner.message_hub.update_scalar("val/ap", np.float64(0.5))
    runner.train()
    return str(folder / "epoch_2.pth")


def test_a_run_is_resumed_where_it_stopped(saved, tmp_path):
    runner = make_runner(tmp_path, epochs=3, resume=True, load_from=saved)
    runner.load_or_resume()
    before = read_checkpoint(saved)
    assert (runner.epoch, runner.iter) == (2, 4)
    assert torch.equal(runner.model.layer.weight, before["state_dict"]["layer.weight"])
    runner.train()
    assert runner.iter == 6
    losses = runner.message_hub.get_scalar("train/loss")
    assert len(losses.data[0]) == 6
    assert losses.min() <= losses.mean() <= losses.max()
    assert runner.message_hub.get_info("best") == 0.25
    assert runner.message_hub.get_scalar("val/ap").current() == 0.5


def strings_replaced(node, text: str):
    """A copy of nested settings with every string, key or value, beside a hostile one."""
    if isinstance(node, dict):
        return {k: strings_replaced(v, text) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(strings_replaced(v, text) for v in node)
    return text if isinstance(node, str) else node


@pytest.mark.parametrize("template", RUNS_CODE)
def test_resume_runs_nothing_out_of_meta(template, saved, tmp_path, monkeypatch):
    mark, evil = tmp_path / "mark", tmp_path / "evil.py"
    evil.write_text(f"open({str(mark)!r}, 'w')")
    (tmp_path / "evil_module.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    text = template.format(mark=str(mark), evil=str(evil))
    checkpoint = torch.load(saved, weights_only=False)
    checkpoint["meta"] = strings_replaced(checkpoint["meta"], text) | {"cfg": text, "config": text}
    checkpoint["message_hub"]["runtime_info"]["cfg"] = text
    torch.save(checkpoint, tmp_path / "hostile.pth")
    # the text does run where MMEngine parses it
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        try:
            Config.fromstring(text, ".py")
        except Exception as error:
            print(error)
    assert mark.exists()
    mark.unlink()
    runner = make_runner(tmp_path, 3, resume=True, load_from=str(tmp_path / "hostile.pth"))
    runner.load_or_resume()
    assert runner.iter == 4
    assert not mark.exists()


def test_what_a_run_writes_is_kept(saved):
    written = torch.load(saved, weights_only=False)["meta"]["cfg"]
    assert CheckpointLoader.load_checkpoint(saved, "cpu")["meta"]["cfg"] == written != ""


def fields(**values) -> Call:
    """A scalar of numpy with fields, in a file that is read with weights_only=True."""
    kinds = [(name, np.array(value).dtype.str) for name, value in values.items()]
    content = np.array([tuple(values.values())], kinds).tobytes()
    return Call(np.float64(0).__reduce__()[0], Call(np.dtype, kinds), content)


def test_a_scalar_with_fields_does_not_stand_in_for_a_dict(tmp_path):
    text, path = "a = open('mark', 'w')", str(tmp_path / "x.pth")
    meta, hub = fields(config=text), {"runtime_info": fields(cfg=text)}
    torch.save({"state_dict": {}, "meta": meta, "message_hub": hub}, path)
    read = read_checkpoint(path)
    assert read["meta"]["config"] == read["message_hub"]["runtime_info"]["cfg"] == text
    read = CheckpointLoader.load_checkpoint(path, "cpu")
    assert read == {"state_dict": {}, "message_hub": {}}
    torch.save(meta, path)
    assert read_checkpoint(path)["config"] == text
    with pytest.raises(UnreadableCheckpointError, match="contains a void, and a checkpoint is a"):
        CheckpointLoader.load_checkpoint(path, "cpu")


def test_an_inferencer_calls_nothing_that_a_checkpoint_names(tmp_path):
    path, mark = str(tmp_path / "x.pth"), tmp_path / "mark"
    text = f"model = dict(type='os.mkdir', path={str(mark)!r})"
    hub = {"runtime_info": {"cfg": text}}
    torch.save({"state_dict": {}, "meta": {"cfg": text}, "message_hub": hub}, path)
    with pytest.MonkeyPatch.context() as patch:
        # what MMEngine alone does
        patch.setattr(infer, "_load_checkpoint", lambda name, **_: torch.load(name))
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'cfg'"):
            BaseInferencer._init_model(None, ConfigDict(), path)
    assert mark.exists()
    mark.rmdir()
    with pytest.raises(ValueError, match="Cannot find the config in the checkpoint"):
        BaseInferencer._init_model(None, ConfigDict(), path)
    assert not mark.exists()


SETTINGS = {
    "": {},
    "a = 1\nb = -1.5\nc = dict(x=[1, (2, 3)], y={'z': None, 1: {2}})": {
        **{"a": 1, "b": -1.5},
        "c": {"x": [1, (2, 3)], "y": {"z": None, 1: {2}}},
    },
    "custom_imports = dict(imports=['mmconvnext'], allow_failed_imports=False)": {
        "custom_imports": {"imports": ["mmconvnext"], "allow_failed_imports": False}
    },
    "a = dict({'b': 1}, c=2)": {"a": {"b": 1, "c": 2}},
    "a = [{'type': 'mmdet.ConvNeXt'}, dict(type='mmconvnext.models.convnext.ConvNeXt')]": {
        "a": [{"type": "mmdet.ConvNeXt"}, {"type": "mmconvnext.models.convnext.ConvNeXt"}]
    },
    "a = dict(type='ConvNeXt')": {"a": {"type": "ConvNeXt"}},
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_are_read_without_running_them(text):
    assert mmconvnext.ConvNeXt
    assert read_settings(text) == SETTINGS[text]


@pytest.mark.parametrize(
    "text",
    [
        *(None, 3, "a = b", "a.b = 1", "a += 1", "a =", "(" * 10000, "\0", "a = b = 1"),
        *("dict = 1", "__builtins__ = {}", "a = dict([('type', 'os.mkdir')])", "a = {[]: 1}"),
        *("a = dict(type='os.mkdir')", "a = [{'type': 'subprocess.Popen'}]", "a = dict(type='')"),
        *("a = dict(**{'ty' 'pe': 'mmengine.load'})", "a = dict(type='mmengine.config.config.os')"),
        *("a = {**{'type': 'os.mkdir'}}", "a = dict({'b': (dict(type='os.mkdir'),)}, c=1)"),
        *("a = dict(type='antigravity')", "a = dict(type='torch.classes.x')"),
        *("a = dict({}, {})", "a = [1].copy()", "a = f(type='x')", "a = {'type': 'os.' 'mkdir'}"),
        *("custom_imports = dict(imports=['imports'])", "custom_imports = f()"),
        "custom_imports = {'imports': 'allow_failed_imports'}",
        *("# \ra = open('x', 'w')", "dict.a = dict()", "a[0] = 1", "a, b = 1, 2"),
    ],
)
def test_anything_else_is_no_settings(text):
    assert read_settings(text) is None
