"""A training that ends after a given time."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.errors import ConfigError
from mmconvnext.training.time_limit import TimeLimitHook, read_time
from tests.line import Line


def run(work_dir, seconds, by_epoch=False, resume=False):
    model = Line()
    runner = DetectionRunner(
        model,
        str(work_dir),
        train_dataloader=DataLoader([{"inputs": 1.0}] * 4),
        train_cfg={"by_epoch": by_epoch, "max_epochs" if by_epoch else "max_iters": 8},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
        default_hooks={"checkpoint": None},
        experiment_name=str(work_dir) + str(resume),
        resume=resume,
    )
    runner.register_hook(TimeLimitHook(seconds))
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("0.5h", 1800), ("1d", 86400)],
)
def test_times_are_read(text, seconds):
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "30 m", "1h x", "0m", "", "30min"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="such as 90s"):
        read_time(text)


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_training_ends_with_a_checkpoint_to_go_on_from(tmp_path, by_epoch):
    runner = run(tmp_path, 1e-9, by_epoch)
    assert runner.iter == 0
    assert (tmp_path / "iter_1.pth").is_file()
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_1.pth")
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert f"are over after 1 of {32 if by_epoch else 8} iterations" in log
    assert ("in epoch 1 of 8" in log) == by_epoch


def test_a_training_that_was_ended_goes_on_to_its_end(tmp_path):
    run(tmp_path / "iterations", 1e-9)
    assert run(tmp_path / "iterations", 600, resume=True).iter == 8
    run(tmp_path / "epochs", 1e-9, by_epoch=True)
    runner = run(tmp_path / "epochs", 600, by_epoch=True, resume=True)
    # the epoch that was ended after one iteration starts again
    assert (runner.epoch, runner.iter) == (8, 33)


def test_a_training_that_is_done_in_time_does_not_notice(tmp_path):
    assert run(tmp_path, 600).iter == 8
    assert not (tmp_path / "iter_8.pth").exists()
