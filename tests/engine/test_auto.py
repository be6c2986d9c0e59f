"""What ``--auto`` chooses; ``measure_auto.py`` trains as it chose and measures."""

import argparse
import shlex

import pytest
from mmengine.config import Config

from mmconvnext import cli
from mmconvnext.cli.common import OptionsAction
from mmconvnext.engine import auto
from mmconvnext.engine.config import load_config
from mmconvnext.engine.own_data import use_dataset
from mmconvnext.engine.trial import Trial
from mmconvnext.errors import UserError

GIB = 2**30
EPOCHS = "mask_rcnn_convnext_t_1x_coco"
ITERATIONS = "mask_rcnn_convnext_shapes"


def trial(size=2, **changes):
    values = {"seconds": 2.0, "memory": 3 * GIB, "loading": 0.1, "worker_memory": GIB}
    return Trial(**{"batch_size": size, "images": 1000, "finite": True, **values, **changes})


@pytest.mark.parametrize(
    ("size", "images", "processes", "accumulated", "factor"),
    [
        (2, 1000, 1, 8, 1),
        (16, 1000, 1, 1, 1),
        (2, 1000, 8, 1, 1),
        (2, 1000, 16, 1, 2),  # more processes than the learning rate is meant for
        (2, 4, 1, 2, 0.25),  # no update with more images than there are
        (1, 1, 1, 1, 0.0625),
    ],
)
def test_an_update_has_the_images_that_the_learning_rate_is_meant_for(
    size, images, processes, accumulated, factor
):
    options = auto.choose_options(load_config(EPOCHS), trial(size, images=images), processes)
    assert options["train_dataloader.batch_size"] == size
    assert options["optim_wrapper.accumulative_counts"] == accumulated
    assert options.get("optim_wrapper.optimizer.lr", 1e-4) == pytest.approx(1e-4 * factor, 1e-2)
    assert ("optim_wrapper.optimizer.lr" in options) == (factor != 1)


@pytest.mark.parametrize(
    ("images", "epochs", "interval", "milestones"),
    [
        (117_266, 12, 1, None),
        (200_000, 12, 1, None),  # never fewer than the config has
        (117_266 // 16, 48, 2, [32, 44]),
        (80, 300, 10, [200, 275]),
    ],
)
def test_small_data_sets_get_more_epochs(images, epochs, interval, milestones):
    cfg = load_config(EPOCHS)
    options = auto.choose_options(cfg, trial(16, images=images), 1)
    assert options["train_cfg.max_epochs"] == epochs
    assert options["train_cfg.val_interval"] == interval
    assert options["default_hooks.checkpoint.interval"] == interval
    assert options.get("param_scheduler.1.milestones") == milestones
    cfg.merge_from_dict(options)
    assert cfg.param_scheduler[1].end == epochs


def test_warm_up_is_as_many_updates_and_no_more_than_a_tenth():
    cfg = load_config(EPOCHS)  # 1000 updates
    many = auto.choose_options(cfg, trial(2, images=117_266), 1)
    assert many["param_scheduler.0.end"] == 8000
    few = auto.choose_options(cfg, trial(2, images=80), 1)
    assert few["param_scheduler.0.end"] == 300 * 40 // 10


def test_schedules_by_iteration_keep_their_updates():
    cfg = load_config(ITERATIONS)
    options = auto.choose_options(cfg, trial(1), 1)
    cfg.merge_from_dict(options)
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.train_cfg.max_iters == 4 * 1050 < cfg.train_cfg.val_begin
    assert [schedule.end for schedule in cfg.param_scheduler] == [200, 4200]
    assert cfg.param_scheduler[1].begin == 200


@pytest.mark.parametrize(
    ("changes", "spare", "cores", "workers"),
    [
        ({}, 5, 4, 1),
        ({"loading": 3.0}, 5, 4, 3),
        ({"loading": 9.0}, 5, 4, 4),
        ({"loading": 9.0}, 1.5, 4, 1),
        ({"loading": 9.0}, 0, 4, 0),
    ],
)
def test_workers_keep_up_and_fit(changes, spare, cores, workers):
    assert auto.choose_workers(trial(**changes), int(spare * GIB), cores) == workers


def test_what_does_not_fit_says_what_it_takes():
    with pytest.raises(UserError, match=r"with one image takes 3\.00 GiB, and 2\.00 GiB"):
        auto.check_memory(trial(1), 2 * GIB)


def test_the_printed_options_are_read_as_they_are_meant():
    options = {"a": 1, "b": 1.5e-05, "c": [225, 275], "d": True, "e": "AmpOptimWrapper"}
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    arguments = shlex.split(f"--cfg-options {auto.as_text(options)}")
    assert parser.parse_args(arguments).cfg_options == options


@pytest.mark.parametrize(
    ("version", "folder", "files"),
    [
        ("0::/job", "job", {"memory.max": 5 * GIB, "memory.current": GIB}),
        ("0::/host/only", ".", {"memory.max": 5 * GIB, "memory.current": GIB}),
        (
            "4:memory:/job",
            "memory/job",
            {"memory.limit_in_bytes": 5 * GIB, "memory.usage_in_bytes": GIB},
        ),
        ("0::/job", "job", {"memory.max": "max", "memory.current": GIB}),
    ],
)
def test_limits_of_control_groups_are_kept(tmp_path, version, folder, files):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (tmp_path / folder / name).write_text(f"{value}\n")
    left = [*auto.left_in_control_groups([version, "2:cpu:/job"], tmp_path)]
    assert left == ([] if "max" in files.values() else [4 * GIB])
    assert auto.free_memory() > 0


def small_config(coco_tiny, tmp_path) -> Config:
    cfg = load_config(ITERATIONS)
    cfg.merge_from_dict({"launcher": "none", "work_dir": str(tmp_path)})
    use_dataset(cfg, coco_tiny, tmp_path / "annotations")
    resize = {"type": "Resize", "scale": (128, 96), "keep_ratio": True}
    cfg.train_dataloader.dataset.pipeline.insert(2, resize)
    return cfg


@pytest.mark.slow
def test_trial_steps_choose_a_batch_that_fits(coco_tiny, tmp_path, monkeypatch, capsys):
    cfg = small_config(coco_tiny, tmp_path)
    monkeypatch.setattr(auto, "free_memory", lambda: 2 * GIB)
    monkeypatch.setattr(auto.measure, "__defaults__", (False, 1.0))
    notes = auto.choose(cfg)
    size = cfg.train_dataloader.batch_size
    assert size * cfg.optim_wrapper.accumulative_counts == 4
    assert "--auto: 80 images; a training step" in notes[0]
    assert f"--cfg-options train_dataloader.batch_size={size} " in notes[-1]
    assert f"a step with batch size {size}: " in capsys.readouterr().err


def test_faults_of_the_config_are_told_with_its_name(coco_tiny, tmp_path):
    cfg = small_config(coco_tiny, tmp_path)
    cfg.model.backbone.arch = "huge-ish"
    with pytest.raises(UserError, match=f"{ITERATIONS}.*huge-ish"):
        auto.choose(cfg)


@pytest.mark.parametrize("other", ["--resume", "--auto-scale-lr"])
def test_what_contradicts_it_is_refused(other, tmp_path, capsys):
    arguments = ["train", EPOCHS, "--auto", other, "--work-dir", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert f"error: --auto with {other}: " in capsys.readouterr().err


@pytest.mark.parametrize(("processes", "epoch"), [(1, 500), (4, 125)])
def test_the_length_is_that_of_all_processes(processes, epoch):
    trials = [trial(), trial()]
    lines = auto.explain(trials, trials[-1], 8 * GIB, {"train_cfg.max_epochs": 12}, processes)
    assert f"12 epochs of {epoch} iterations" in lines[1]


@pytest.mark.parametrize(
    ("finite", "wrapper", "amp", "options"),
    [
        ([True], "OptimWrapper", [True], "AmpOptimWrapper"),
        ([False, True], "OptimWrapper", [True, False], None),  # again in float32
        ([True], "AmpOptimWrapper", [True], None),  # which the config has
    ],
)
def test_on_a_gpu_mixed_precision_is_tried_first(monkeypatch, finite, wrapper, amp, options):
    limits, tried, left = [], [], iter(finite)
    monkeypatch.setattr(auto, "has_accelerator", lambda: True)
    monkeypatch.setattr(auto.torch.cuda, "mem_get_info", lambda: (10 * GIB, 20 * GIB))

    def measure(cfg, limit, amp=False):
        limits.append(limit)
        tried.append(amp)
        return [trial(finite=next(left))]

    monkeypatch.setattr(auto, "measure", measure)
    cfg = load_config(EPOCHS)
    cfg.optim_wrapper.type = wrapper
    notes = auto.choose(cfg)
    assert tried == amp
    assert {*limits} == {int(auto.MEMORY_SHARE * 10 * GIB)}
    assert ("optim_wrapper.type=AmpOptimWrapper" in notes[-1]) == (options is not None)
    assert cfg.optim_wrapper.type == (options or wrapper)


@pytest.mark.parametrize("accelerator", [False, True])
def test_of_several_processes_the_first_one_chooses(monkeypatch, accelerator):
    called = []
    monkeypatch.setattr(auto, "has_accelerator", lambda: accelerator)
    monkeypatch.setattr(auto, "init_distributed_on_cpu", lambda *_: called.append("cpu"))
    monkeypatch.setattr(auto, "init_dist", lambda launcher, **_: called.append(launcher))
    monkeypatch.setattr(auto, "check_launcher", lambda launcher: called.append("checked"))
    monkeypatch.setattr(auto, "get_dist_info", lambda: (1, 2))

    def broadcast(objects):
        assert objects == [None]
        objects[0] = {"train_dataloader.batch_size": 7}, ["a line"]

    monkeypatch.setattr(auto, "broadcast_object_list", broadcast)
    cfg = load_config(EPOCHS)
    cfg.launcher = "pytorch"
    assert auto.choose(cfg) == ["a line"]
    assert cfg.train_dataloader.batch_size == 7
    assert called == ["checked", "cpu", "pytorch"][: 2 + accelerator]


def test_a_trial_that_prints_no_step_is_refused_with_its_last_line(monkeypatch):
    seen = []

    def lines(arguments):
        seen.append(Config.fromfile(arguments[0]))
        return iter(["loading\n", "Killed\n", "\n"])

    monkeypatch.setattr(auto, "_lines", lines)
    with pytest.raises(UserError, match="a training step with one image failed: Killed"):
        auto.measure(load_config(EPOCHS), GIB, amp=True)
    assert seen[0].optim_wrapper.type == "AmpOptimWrapper"
    assert seen[0].train_dataloader.batch_size == 16


def test_without_checkpoints_their_interval_is_left_out():
    cfg = load_config(EPOCHS)
    del cfg.default_hooks["checkpoint"]
    options = auto.choose_options(cfg, trial(16, images=80), 1)
    assert "default_hooks.checkpoint.interval" not in options
    assert options["train_cfg.val_interval"] == 10
