"""A training that is killed and resumed is the same, bit for bit, as one that was not."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader

from mmconvnext.data.shapes import generate_shapes
from mmconvnext.engine import resume
from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.errors import ConfigError
from mmconvnext.training import exact
from mmconvnext.training.checkpoints import newest_whole
from mmconvnext.training.exact import (
    ExactEpochBasedTrainLoop,
    ExactIterBasedTrainLoop,
)
from tests.line import Line
from tests.training.exact_training import BY_EPOCH, BY_ITERATION

REPO = Path(__file__).parents[2]
EMA = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.1, "update_buffers": True}
EVERY_STEP = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 1}
NUMBERS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eleven pictures to train on: with batches of two, an epoch has six steps."""
    folder = tmp_path_factory.mktemp("data")
    generate_shapes(folder, num_train=11, num_val=2, image_size=64)
    return folder


@pytest.fixture(scope="module")
def train(data):
    """Train in a process of its own, or several; returns the exit codes."""
    command = [sys.executable, "-m", "tests.training.exact_training"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPO, env=environment, **pipes) as process:

        def train(folder: Path, options: dict, **how) -> list[int]:
            settings = {"work_dir": str(folder), "data": str(data), "options": options, **how}
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield train


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folder of a training that was not interrupted, which is kept."""
    folders = {}

    def whole(options: dict, **how) -> Path:
        key = json.dumps([options, how])
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("whole")
            assert {*train(folders[key], options, **how)} == {0}
        return folders[key]

    return whole


def steps(folder: Path, rank: int = 0) -> dict[int, dict]:
    """Losses and images of each step, the last time that it was taken."""
    lines = (folder / f"steps_{rank}.json").read_text().splitlines()
    return {step["step"]: step for step in map(json.loads, lines)}


def logged(folder: Path) -> dict[int, float]:
    """The losses in the log, means over some steps, and AP, by the step."""
    entries = {}
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in map(json.loads, path.read_text().splitlines()):
            found = {k: v for k, v in line.items() if "loss" in k or "mAP" in k or k == "lr"}
            entries[line["step"], "coco/bbox_mAP" in line] = found
    return entries


def numbers(value, name="") -> dict:
    """Tensors and numbers of nested dicts and lists by their names."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, each in items for k, v in numbers(each, f"{name}.{key}").items()}
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value}


def assert_equal(folder: Path, expected: Path) -> None:
    """Losses of each step, in the log, and all of the last checkpoint that is not of a clock."""
    assert steps(folder) == steps(expected)
    assert logged(folder) == logged(expected)
    found, wanted = (
        torch.load(each / (each / "last_checkpoint").read_text().split("/")[-1], weights_only=False)
        for each in (folder, expected)
    )
    assert found["meta"]["iter"] == wanted["meta"]["iter"] == max(steps(expected)) + 1
    assert found["meta"]["place"] == wanted["meta"]["place"]
    for key in NUMBERS:
        assert numbers(found.get(key)) == numbers(wanted.get(key)), key


def log(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*/*.log")))


def without_validation(options: dict) -> dict:
    return {**options, "val_cfg": None, "val_evaluator": None, "val_dataloader": None}


# Options, the steps after which the training is killed, and how it is run.
CASES = {
    "within an epoch": ({**BY_EPOCH, "custom_hooks": [EMA]}, [4], {}),
    "by iteration, again and again": (BY_ITERATION, [1, 4, 7], {}),
    "accumulated, by epoch": (
        {**without_validation(BY_EPOCH), "optim_wrapper.accumulative_counts": 4},
        [7],
        {},
    ),
    "accumulated, by iteration": (
        {**without_validation(BY_ITERATION), "optim_wrapper.accumulative_counts": 3},
        [5],
        {},
    ),
    "a scaler": (
        {
            **without_validation(BY_ITERATION),
            "optim_wrapper.type": "AmpOptimWrapper",
            "optim_wrapper.dtype": "bfloat16",
            "optim_wrapper.loss_scale": {"init_scale": 2.0**40, "growth_interval": 2},
        },
        [4],
        {"amp": True},
    ),
    "within a validation": (
        {**BY_EPOCH, "default_hooks.checkpoint.save_best": "auto"},
        [6],
        {"in_validation": True},
    ),
    "three processes": (without_validation(BY_ITERATION), [5], {"processes": 3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_ends_as_one_that_was_not(name, train, whole, tmp_path):
    options, kills, how = CASES[name]
    expected, processes = whole(options, **how), how.get("processes", 1)
    changes = {**options, **EVERY_STEP} if name != "within a validation" else dict(options)
    resumed = {}
    for kill, workers in zip(kills, (2, 0, 1), strict=False):
        changes["train_dataloader.num_workers"] = workers
        assert train(tmp_path, changes, kill=kill, **resumed, **how) == [-9] * processes
        resumed = {"resume": True}
    assert train(tmp_path, options, resume=True, **how) == [0] * processes
    for rank in range(processes):
        assert steps(tmp_path, rank) == steps(expected, rank)
    assert_equal(tmp_path, expected)
    assert log(tmp_path).count("resuming exactly") == len(kills)
    assert "resuming with" not in log(tmp_path)


def test_one_and_two_processes_see_the_same_images(whole):
    """At equal batches of all, with the same augmentation."""
    two = whole(without_validation(BY_ITERATION), processes=2)
    one = whole({**without_validation(BY_ITERATION), "train_dataloader.batch_size": 4})
    for key in ("images", "pixels"):
        alone = [step[key] for step in steps(one).values()]
        ranks = [[step[key] for step in steps(two, rank).values()] for rank in (0, 1)]
        turns = [
            [x for pair in zip(*step, strict=True) for x in pair]
            for step in zip(*ranks, strict=True)
        ]
        assert alone == turns


def run(folder: Path, model=None, loop=None, **settings) -> DetectionRunner:
    """Train a model of one number on a list of four; resumes in a folder with checkpoints."""
    model = model or Line()
    last, _ = newest_whole(folder)
    loader = {"dataset": [{"inputs": 1.0}] * 4, "batch_size": 1}
    runner = DetectionRunner(
        model,
        str(folder),
        train_dataloader=DataLoader(**settings.pop("loader", loader)),
        train_cfg=loop or {"by_epoch": False, "max_iters": 3},
        optim_wrapper=settings.pop("wrapper", None)
        or OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
        default_hooks={"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1}},
        experiment_name=f"{folder}{random.random()}",
        load_from=last and str(last),
        resume=last is not None,
        randomness=settings.pop("randomness", {"seed": 3}),
        cfg=Config(settings),
        default_scope="mmdet",
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("loop", "kind", "mmengines"),
    [
        ({"by_epoch": True, "max_epochs": 1}, ExactEpochBasedTrainLoop, EpochBasedTrainLoop),
        (
            {"type": "EpochBasedTrainLoop", "max_epochs": 1},
            ExactEpochBasedTrainLoop,
            EpochBasedTrainLoop,
        ),
        ({"by_epoch": False, "max_iters": 1}, ExactIterBasedTrainLoop, IterBasedTrainLoop),
        ({"type": IterBasedTrainLoop, "max_iters": 1}, ExactIterBasedTrainLoop, IterBasedTrainLoop),
    ],
)
def test_without_it_the_loops_are_mmengines(tmp_path, loop, kind, mmengines):
    assert type(run(tmp_path / "exact", loop=loop).train_loop) is kind
    plain = run(tmp_path / "plain", loop=loop, exact_resume=False)
    assert type(plain.train_loop) is mmengines
    assert type(plain.train_dataloader.batch_sampler) is BatchSampler
    assert not any(isinstance(hook, exact.ExactResumeHook) for hook in plain.hooks)
    (saved,) = (tmp_path / "plain").glob("iter_1.pth") if "max_iters" in loop else [None]
    assert not saved or "place" not in torch.load(saved, weights_only=False)["meta"]


def places_of(folder: Path) -> dict[str, dict]:
    return {
        path.name: torch.load(path, weights_only=False)["meta"]["place"]
        for path in folder.glob("*.pth")
    }


def test_the_seed_of_the_checkpoint_goes_on(tmp_path):
    first = run(tmp_path, randomness={"seed": None})
    again = run(tmp_path, loop={"by_epoch": False, "max_iters": 5}, randomness={"seed": None})
    assert again.seed == first.seed
    assert f"with the checkpoint's seed, {first.seed}" in log(tmp_path)
    assert again.train_dataloader.batch_sampler.start == (first.seed, 1, 0)
    other = run(tmp_path, loop={"by_epoch": False, "max_iters": 6}, randomness={"seed": 7})
    assert other.seed == first.seed
    assert 'is different from the value in `randomness` config "7"' in log(tmp_path)


def test_what_makes_a_resume_inexact_is_said(tmp_path, monkeypatch):
    run(tmp_path)
    longer = {"by_epoch": False, "max_iters": 5}
    pipeline = [{"type": "CachedMosaic"}]
    monkeypatch.setattr(resume, "get_world_size", lambda: 2)
    monkeypatch.setattr(resume, "git_revision", lambda: "abc-dirty")
    run(tmp_path, loop=longer, train_dataloader={"dataset": {"pipeline": pipeline}})
    text = log(tmp_path)
    assert "resuming with another number of processes: 1 in the checkpoint, 2 now" in text
    assert "abc-dirty now" in text
    assert "CachedMosaic starts without the images that it had kept" in text
    assert "resuming not exactly, from epoch 1, iteration 4 on, after 3 batches of pass 1" in text


def test_a_checkpoint_of_mmengine_starts_where_its_numbers_say(tmp_path):
    run(tmp_path, exact_resume=False)
    again = run(tmp_path, loop={"by_epoch": False, "max_iters": 5})
    assert again.iter == 5
    assert again.train_dataloader.batch_sampler.start == (3, 1, 0)  # of four batches
    assert "the checkpoint does not say which data of the epoch were trained on" in log(tmp_path)
    assert "resuming not exactly, from epoch 1, iteration 4 on" in log(tmp_path)


@pytest.mark.parametrize(("size", "batch"), [(2, 3), (3, 2)])
def test_other_batches_start_after_as_many_images(size, batch):
    loop = ExactIterBasedTrainLoop(
        SimpleNamespace(visualizer=SimpleNamespace()),
        DataLoader([1] * 12, batch_size=size),
        max_iters=1,
    )
    loop.go_to({"pass": 4, "batch": 6, "validates": False, "images": 1})
    assert (loop.place["pass"], loop.place["batch"]) == (4, batch)


def test_a_loader_without_batches_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="train_dataloader makes no batch"):
        run(tmp_path, loader={"dataset": [1], "batch_size": 2, "drop_last": True})


class Sized(Line):
    """A model whose images have another size after each second step, as YOLOX's."""

    def __init__(self):
        super().__init__()
        self.resize = BatchSyncRandomResize((32, 3200), interval=2)
        self.seen = []

    def forward(self, inputs, mode="loss"):
        resized, _ = self.resize(torch.zeros(1, 1, 32, 32), [])
        self.seen.append(resized.shape[-1])
        return super().forward(inputs)


def test_the_size_of_images_goes_on(tmp_path):
    whole = run(tmp_path / "whole", Sized(), {"by_epoch": False, "max_iters": 6}).model.seen
    run(tmp_path / "killed", Sized(), {"by_epoch": False, "max_iters": 3})
    resumed = run(tmp_path / "killed", Sized(), {"by_epoch": False, "max_iters": 6}).model.seen
    assert resumed == whole[3:]
    assert len({*whole}) == 3


def test_what_is_accumulated_is_not_left_out_of_a_checkpoint(tmp_path):
    """One that is due within an accumulation waits; an epoch ends one."""
    model = Line()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=3)
    run(tmp_path / "by iteration", model, {"by_epoch": False, "max_iters": 7}, wrapper=wrapper)
    saved = places_of(tmp_path / "by iteration")
    assert {name: place["batch"] for name, place in saved.items()} == {
        "iter_3.pth": 3, "iter_6.pth": 2, "iter_7.pth": 3,
    }  # fmt: skip
    model = Line()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=3)
    run(tmp_path / "by epoch", model, {"by_epoch": True, "max_epochs": 2}, wrapper=wrapper)
    # of its gradients' mean, after three steps of four and after the fourth
    assert model.weight.item() == pytest.approx(1 - 4 * 0.1)
    assert {*places_of(tmp_path / "by epoch")} == {f"iter_{i}.pth" for i in (3, 4, 7, 8)}
