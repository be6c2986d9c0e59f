"""What the options of ``mmconvnext train`` change in the config that is trained."""

from types import SimpleNamespace

import pytest

from mmconvnext.engine import runner

CONFIG = "mask_rcnn_convnext_shapes"


@pytest.fixture
def train(main, monkeypatch, tmp_path):
    """Call the command up to the training: gives the config, or with ``code=1`` what it prints."""
    built = []

    def build(cfg, parts, notes):
        built.append(cfg)
        return SimpleNamespace(register_hook=lambda hook: None, train=lambda: None)

    monkeypatch.setattr(runner, "build_runner", build)
    monkeypatch.setattr(runner, "resume_from", lambda cfg, path: [f"from {path}"])

    def train(*options, code=0):
        printed = main("train", CONFIG, "--work-dir", tmp_path / "run", *options, code=code)
        return printed if code else built[-1]

    return train


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--amp"], "optim_wrapper.type", "AmpOptimWrapper"),
        (["--shard"], "shard", True),
        (["--auto-scale-lr"], "auto_scale_lr.enable", True),
        (["--ema", "0.001"], "custom_hooks", "EMAHook"),
        (["--early-stopping", "3"], "custom_hooks", "EarlyStoppingHook"),
        (["--resume", "--extend-schedule"], "resume_schedule", "config"),
        (["--from-scratch"], "model.backbone.init_cfg", None),
    ],
)
def test_an_option_is_a_line_of_the_config(train, options, key, value):
    cfg = found = train(*options)
    for name in key.split("."):
        found = found.get(name)
    assert value in str(found) if key == "custom_hooks" else found == value
    if key == "custom_hooks":
        (number,) = map(float, options[1:])
        assert number in [v for hook in cfg.custom_hooks for v in hook.values()]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--resume", "--restart"], "--resume goes on with a training, --restart starts anew"),
        (["--extend-schedule"], "--extend-schedule needs --resume"),
    ],
)
def test_options_that_contradict_each_other_are_refused(train, options, fault):
    assert f"error: {fault}" in train(*options, code=1)


def test_a_trial_chooses_before_the_runner_is_built(train, monkeypatch):
    monkeypatch.setattr("mmconvnext.engine.auto.choose", lambda cfg: cfg.update(chosen=1) or ["x"])
    assert train("--auto").chosen == 1
