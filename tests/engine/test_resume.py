import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from mmconvnext.engine.resume import FreshSchedule, explain_differences
from mmconvnext.engine.runner import DetectionRunner, check_checkpoint, resume_from
from mmconvnext.errors import ConfigError, UserError

LENGTH = 5  # iterations of an epoch
WARMUP = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 7}
STEPS = {"type": "MultiStepLR", "by_epoch": True, "milestones": [1, 3], "gamma": 0.1}
LONGER = {**STEPS, "milestones": [3, 5]}
COSINE = {"type": "CosineAnnealingLR", "by_epoch": True, "T_max": 6, "begin": 0, "end": 6}
CONFIG = Config(
    {
        "param_scheduler": [WARMUP, STEPS],
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 1},
        "train_dataloader": {"batch_size": 2, "num_workers": 2, "dataset": {"ann_file": "a"}},
        "train_cfg": {"max_epochs": 4},
    }
)


class Training:
    """The learning rates of a training, without the training."""

    def __init__(self, schedules, lr=0.1):
        layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        groups = [
            {"params": layer.parameters(), "lr": lr / (i + 1)} for i, layer in enumerate(layers)
        ]
        self.wrapper = OptimWrapper(SGD(groups, lr=lr))
        self.schedulers = [
            PARAM_SCHEDULERS.build(each, default_args={"optimizer": self.wrapper.optimizer})
            for each in schedules
        ]

    def run(self, first: int, last: int) -> list[list[float]]:
        rates = []
        for iteration in range(first + 1, last + 1):
            rates.append([group["lr"] for group in self.wrapper.param_groups])
            for scheduler in self.schedulers:
                if not scheduler.by_epoch or iteration % LENGTH == 0:
                    scheduler.step()
        return rates


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("schedules", [[WARMUP, LONGER], [WARMUP, COSINE], [LONGER], [WARMUP]])
@pytest.mark.parametrize("lr", [0.1, 0.02])
@pytest.mark.parametrize("place", [5, 10, 20])
def test_an_extended_schedule_goes_on_as_if_it_had_been_there(schedules, lr, place):
    before = Training([WARMUP, STEPS])
    before.run(0, place)
    state = before.wrapper.state_dict()
    resumed = Training(schedules, lr)
    fresh = FreshSchedule(resumed.wrapper, resumed.schedulers)
    resumed.wrapper.load_state_dict(state)
    fresh.replay(resumed.wrapper.param_groups, place // LENGTH, place)
    expected = Training(schedules, lr).run(0, 30)[place:]
    torch.testing.assert_close(resumed.run(place, 30), expected)


def test_as_many_epochs_are_replayed_as_there_were():
    resumed = Training([{**STEPS, "gamma": 0.5, "milestones": [1, 2, 3, 4, 5]}])
    fresh = FreshSchedule(resumed.wrapper, resumed.schedulers)
    fresh.replay(resumed.wrapper.param_groups, epochs=4, iterations=11)
    assert resumed.wrapper.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)


def changed(**changes) -> list[str]:
    cfg = Config(CONFIG.to_dict())
    cfg.merge_from_dict(changes)
    return explain_differences(CONFIG.pretty_text, cfg)


def test_what_differs_and_what_wins_is_said():
    assert changed() == []
    assert changed(**{"train_dataloader.num_workers": 9}) == []
    assert changed(model={"backbone": {"init_cfg": {"type": "Pretrained"}}}) == []
    (line,) = changed(**{"optim_wrapper.optimizer.lr": 0.5})
    assert line == (
        "resuming with the checkpoint's optim_wrapper.optimizer.lr: 0.1 in the checkpoint, 0.5 in "
        "the config; --extend-schedule takes the config's"
    )
    (line,) = changed(param_scheduler=[WARMUP, LONGER])
    assert "param_scheduler.1.milestones: [1, 3] in the checkpoint, [3, 5] in the config" in line
    (line,) = changed(**{"train_dataloader.batch_size": 4, "train_cfg.max_epochs": 9})
    assert line.startswith("resuming with the config's ")
    assert "train_dataloader.batch_size: 2 in the checkpoint, 4 in the config" in line
    assert "train_cfg.max_epochs: 4 in the checkpoint, 9 in the config" in line
    (line,) = changed(**{"optim_wrapper.optimizer.lr": 0.5, "resume_schedule": "config"})
    assert line.startswith("resuming with the config's optim_wrapper.optimizer.lr")
    with pytest.raises(ConfigError, match="resume_schedule='mine' is unknown; choose of check"):
        changed(resume_schedule="mine")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim_wrapper.optimizer.type": "AdamW"}, "optimizer.type is 'SGD' in the checkpoint"),
        ({"param_scheduler": [WARMUP]}, "give the same, or --extend-schedule"),
        ({"param_scheduler": [STEPS, WARMUP]}, "give the same, or --extend-schedule"),
    ],
)
def test_other_optimizers_and_schedules_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        changed(**changes)
    if "param_scheduler" in changes:
        assert changed(**changes, resume_schedule="config")


@pytest.mark.parametrize("text", [None, "", "import os", "a = open('x')", "_base_ = 'x'"])
def test_a_text_that_is_not_settings_alone_is_not_compared(text):
    (line,) = explain_differences(text, CONFIG)
    assert "no config that could be compared" in line


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode="loss"):
        return {"loss": self.weight.sum()}


def run(work_dir, epochs, resume=None, choice="checkpoint"):
    """Train by a real runner with a schedule as long as it: learning rates, and the runner."""
    rates = []

    class Rates(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            rates.extend(runner.optim_wrapper.get_lr()["lr"])

    settings = Config(
        {
            "train_cfg": {"by_epoch": True, "max_epochs": epochs},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
            "param_scheduler": [{**COSINE, "T_max": epochs, "end": epochs}],
            "resume_schedule": choice,
        }
    )
    runner = DetectionRunner(
        Line(),
        str(work_dir),
        train_dataloader=DataLoader([{"inputs": 1.0}] * LENGTH),
        train_cfg=settings.train_cfg,
        optim_wrapper=settings.optim_wrapper,
        param_scheduler=settings.param_scheduler,
        load_from=resume and str(resume),
        resume=bool(resume),
        experiment_name=f"{work_dir}{epochs}{choice}{resume}",
        cfg=settings,
    )
    runner.register_hook(Rates())
    runner.train()
    return rates, runner


def test_a_real_training_is_extended(tmp_path):
    run(tmp_path / "short", 2)
    last = tmp_path / "short" / "epoch_2.pth"
    whole, _ = run(tmp_path / "whole", 4)
    extended, runner = run(tmp_path / "extended", 4, last, "config")
    assert (runner.epoch, runner.iter) == (4, 4 * LENGTH)
    assert extended == pytest.approx(whole[2 * LENGTH :])
    assert (tmp_path / "extended" / "epoch_4.pth").is_file()


def test_without_asking_a_real_training_keeps_its_schedule_and_says_so(tmp_path):
    run(tmp_path / "short", 2)
    kept, runner = run(tmp_path / "kept", 4, tmp_path / "short" / "epoch_2.pth")
    assert runner.epoch == 4
    whole, _ = run(tmp_path / "whole", 4)
    assert kept != pytest.approx(whole[2 * LENGTH :])
    log = next((tmp_path / "kept").glob("*/*.log")).read_text()
    assert "resuming with the checkpoint's param_scheduler.0.T_max: 2 in the checkpoint, 4" in log
    assert "--extend-schedule takes the config's" in log


def pretrained_config(work_dir) -> Config:
    backbone = {"type": "ConvNeXt", "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}}
    model = {"backbone": backbone}
    return Config({"model": model, "work_dir": str(work_dir), "load_from": "detector.pth"})


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "epoch_3.pth"
    torch.save({}, path)
    return path


@pytest.mark.parametrize("folder", ["", "no/such/folder"])
def test_auto_starts_a_new_run_where_there_is_no_checkpoint(tmp_path, folder):
    cfg = pretrained_config(tmp_path / folder)
    (note,) = resume_from(cfg, "auto")
    assert f"no checkpoint in {cfg.work_dir} yet" in note
    assert cfg.to_dict() == pretrained_config(tmp_path / folder).to_dict()


@pytest.mark.parametrize("last", ["{}", "/moved/away/epoch_3.pth", None])
def test_a_checkpoint_replaces_the_pretrained_weights(tmp_path, checkpoint, last):
    if last:  # auto finds the last one, also in a folder that was moved
        (tmp_path / "last_checkpoint").write_text(last.format(checkpoint))
        (tmp_path / "epoch_9.pth").touch()
    cfg = pretrained_config(tmp_path)
    (note,) = resume_from(cfg, "auto" if last else str(checkpoint))
    assert f"resuming {checkpoint}" in note
    assert (cfg.resume, cfg.load_from) == (True, str(checkpoint))
    assert cfg.model.backbone.init_cfg is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such.pth", r"no checkpoint no/such\.pth"),
        ("auto", "last_checkpoint names is not there"),
    ],
)
def test_a_checkpoint_that_is_missing_is_named_and_nothing_changes(tmp_path, name, message):
    (tmp_path / "last_checkpoint").write_text("no/such.pth")  # it was deleted
    cfg = pretrained_config(tmp_path)
    with pytest.raises(UserError, match=message):
        resume_from(cfg, name)
    assert cfg.to_dict() == pretrained_config(tmp_path).to_dict()
    with pytest.raises(UserError, match=f"there is no checkpoint {tmp_path}"):
        check_checkpoint(str(tmp_path))
    check_checkpoint("https://example.com/a.pth")
