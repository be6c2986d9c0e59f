"""Trainings that end early: after a time, or by a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.errors import ConfigError, UserError
from mmconvnext.training.checkpoints import find_fault
from mmconvnext.training.signals import STOPPED, StopHook, read_time
from tests.line import Line

REPO = Path(__file__).parents[2]


def run(work_dir, seconds=None, by_epoch=False, resume=False, hook=None, **options):
    model = Line()
    checkpoints = {"type": "CheckpointHook", "by_epoch": False, "interval": 100}
    runner = DetectionRunner(
        model,
        str(work_dir),
        train_dataloader=DataLoader([{"inputs": 1.0}] * 4),
        train_cfg={"by_epoch": by_epoch, "max_epochs" if by_epoch else "max_iters": 8},
        optim_wrapper=OptimWrapper(
            torch.optim.SGD(model.parameters(), 0.1), options.pop("accumulated", 1)
        ),
        default_hooks={"checkpoint": {**checkpoints, **options} if options else None},
        experiment_name=f"{work_dir}{resume}{time.monotonic()}",
        resume=resume,
        default_scope="mmdet",
    )
    stop = StopHook(seconds, "the command")
    runner.register_hook(stop)
    if hook:
        runner.register_hook(hook)
    with stop.signals():
        runner.train()
    return runner


class Kills(Hook):
    def __init__(self, iteration: int, number: int = signal.SIGTERM) -> None:
        self.iteration, self.number = iteration, number

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def start(folder, event, *launch):
    command = [sys.executable, "-m", *launch, "tests.training.stopped_training", folder, event]
    environ = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # a group of its own: pytest is not to get what all of a group get
    return subprocess.Popen(command, cwd=REPO, env=environ, start_new_session=True, **options)


def output_of(process, code):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    return output


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
    assert find_fault(tmp_path / "iter_1.pth") is None
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_1.pth")
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert f"are over after 1 of {32 if by_epoch else 8} iterations" in log
    assert ("in epoch 1 of 8" in log) == by_epoch


def test_a_training_that_was_ended_goes_on_to_its_end(tmp_path):
    run(tmp_path / "iterations", 1e-9)
    assert run(tmp_path / "iterations", 600, resume=True).iter == 8
    run(tmp_path / "epochs", 1e-9, by_epoch=True)
    runner = run(tmp_path / "epochs", 600, by_epoch=True, resume=True)
    assert (runner.epoch, runner.iter) == (8, 32)


def test_a_training_that_is_done_in_time_does_not_notice(tmp_path):
    assert run(tmp_path, 600).iter == 8
    assert not (tmp_path / "iter_8.pth").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_a_training_after_its_step(tmp_path, number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, hook=Kills(2, number))
    assert caught.value.code == STOPPED == 75
    assert signal.getsignal(number) == before
    assert f"{number.name}: stopping after this step" in capfd.readouterr().err
    assert find_fault(tmp_path / "iter_3.pth") is None
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert f"stopped by {number.name} after 3 of 8 iterations; saved " in log
    assert "To go on: the command" in log
    assert run(tmp_path, resume=True).iter == 8


def test_accumulated_gradients_are_not_lost(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, hook=Kills(4), accumulated=3)
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_6.pth")


def test_the_next_checkpoint_replaces_that_of_a_stop(tmp_path):
    options = {"interval": 4, "max_keep_ckpts": 1}
    with pytest.raises(SystemExit):
        run(tmp_path, hook=Kills(5), **options)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth", "iter_6.pth"}
    run(tmp_path, resume=True, **options)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_8.pth"}


def test_one_that_is_due_at_the_stop_is_kept_as_such(tmp_path):
    options = {"interval": 2, "max_keep_ckpts": 2}
    with pytest.raises(SystemExit):
        run(tmp_path, hook=Kills(3), **options)
    run(tmp_path, resume=True, hook=Kills(8), **options)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_6.pth", "iter_8.pth"}


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, on_error):
    def full(*args):
        raise OSError(28, "No space left on device")

    run(tmp_path, hook=None, interval=4)
    (tmp_path / "iter_8.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_4.pth"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device; the last .* iter_4\.pth"):
        run(tmp_path, 1e-9, resume=True, on_error=on_error)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_4.pth"]


class Scored(Line):
    def forward(self, inputs, mode="loss"):
        return super().forward(inputs) if mode == "loss" else [{}]


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def test_a_validation_ends_too_and_averaged_weights_are_put_aside(tmp_path):
    model = Scored()
    data = DataLoader([{"inputs": 1.0}] * 4)
    runner = DetectionRunner(
        model,
        str(tmp_path),
        train_dataloader=data,
        val_dataloader=data,
        train_cfg={"by_epoch": False, "max_iters": 8, "val_interval": 4},
        val_cfg={},
        val_evaluator=Evaluator(NoMetric()),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
        custom_hooks=[{"type": "EMAHook", "momentum": 0.5}],
        default_hooks={"checkpoint": None},
        default_scope="mmdet",
    )
    stop, kills = StopHook(), Kills(99)
    kills.before_val_iter = lambda runner, batch_idx, **_: os.kill(os.getpid(), signal.SIGUSR1)
    for hook in (stop, kills):
        runner.register_hook(hook)
    with stop.signals(), pytest.raises(SystemExit):
        runner.train()
    assert runner.iter == 4
    saved = torch.load(tmp_path / "iter_4.pth", weights_only=False)
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (0, 4)
    assert model.weight.item() == pytest.approx(0.6)
    assert saved["ema_state_dict"]["module.weight"].item() == model.weight.item()
    assert saved["state_dict"]["weight"].item() > 0.61  # the average


@pytest.mark.slow
def test_workers_outlive_a_signal_to_all_processes(tmp_path):
    output = output_of(start(tmp_path, "all"), STOPPED)
    assert "stopped by SIGTERM after 3 of 8000 iterations, in epoch 1 of 1000" in output
    assert find_fault(tmp_path / "iter_3.pth") is None
    assert "Traceback" not in output


def test_the_second_signal_ends_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("mmconvnext.training.signals.AT_ONCE", 0.1)
    if not (child := os.fork()):
        with StopHook().signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # by torchrun and slurm, within AT_ONCE
            time.sleep(0.2)
            (tmp_path / "waited").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert (tmp_path / "waited").exists()


@pytest.mark.slow
def test_all_processes_of_torchrun_stop_after_the_same_step(tmp_path):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = start(tmp_path, "torchrun", *launch)
    deadline = time.monotonic() + 100
    while not all((tmp_path / f"step{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    (path,) = tmp_path.glob("iter_*.pth")
    assert find_fault(path) is None
    assert f"stopped by SIGTERM after {path.stem[5:]} of" in output
    assert "DataLoader worker" not in output
