"""The loss on the validation set, and what stops or averages a training by its validations."""

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub

from mmconvnext.data import generate_shapes
from mmconvnext.engine import config as configs
from mmconvnext.engine.runner import build_runner, resume_from
from mmconvnext.training import val_loss
from mmconvnext.training.val_loss import ValidationLossHook, resized
from tests.configs.detector_steps import batches, build, narrow_config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, num_train=8, num_val=3, image_size=64)
    return root


def shapes_config(root, work_dir, **options):
    cfg = configs.load_config("mask_rcnn_convnext_shapes.py")
    configs.set_data_root(cfg, str(root))
    cfg.merge_from_dict(
        {
            **{"work_dir": str(work_dir), "experiment_name": str(work_dir), "launcher": "none"},
            "visualizer.name": str(work_dir),  # MMEngine keeps the first one of a name
            **{"train_cfg.max_iters": 2, "train_cfg.val_begin": 1, "train_cfg.val_interval": 1},
            **{"train_dataloader.batch_size": 2, "val_dataloader.batch_size": 2},
            **{"val_dataloader.num_workers": 0, "val_dataloader.persistent_workers": False},
            **{"default_hooks.checkpoint.interval": 1, "default_hooks.logger.interval": 1},
            "model.test_cfg.rcnn.max_per_img": 10,
            # objects are loaded with the coordinates of the file, pictures are larger
            "val_dataloader.dataset.pipeline.1.scale_factor": 1.5,
            **options,
        }
    )
    return cfg


def train(cfg):
    runner = build_runner(cfg, ("train", "val"))
    runner.train()
    return runner


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A training with an average of weights, which are those that are validated and saved."""
    cfg = shapes_config(shapes, tmp_path_factory.mktemp("trained"))
    configs.use_ema(cfg, True)
    return train(cfg)


def logged(runner):
    """What each validation logged."""
    lines = Path(runner.log_dir, "vis_data", "scalars.json").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "coco/segm_mAP" in entry]


def loss_by_hand(runner, cfg, weights):
    """Of the weights in a checkpoint, the pictures resized with their objects, as in training."""
    dataset = deepcopy(cfg.val_dataloader.dataset)
    load, resize, objects, pack = dataset.pipeline
    dataset.pipeline = [load, objects, resize, pack]
    dataset = DATASETS.build(dataset)
    model = deepcopy(runner.model).eval()
    model.load_state_dict(torch.load(weights, weights_only=False)["state_dict"])
    total = Counter()
    for index, numbers in enumerate(([0, 1], [2])):
        batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in numbers]), True)
        torch.manual_seed(index)
        with torch.no_grad():
            losses = model.loss(batch["inputs"], batch["data_samples"])
        for name, value in model.parse_losses(losses)[1].items():
            total[name] += float(value) * len(numbers) / 3
    return {f"val/{name}": value for name, value in total.items() if "loss" in name}


def test_the_loss_is_that_of_the_averaged_weights_as_in_training(trained):
    entries = logged(trained)
    assert len(entries) == 2
    for entry, name in zip(entries, ("iter_1.pth", "iter_2.pth"), strict=True):
        expected = loss_by_hand(trained, trained.cfg, f"{trained.work_dir}/{name}")
        assert {"val/loss", "val/loss_mask", "val/loss_rpn_cls"} <= expected.keys()
        found = {key: value for key, value in entry.items() if key.startswith("val/")}
        assert found == pytest.approx(expected, rel=1e-5)


def test_weights_are_averaged_and_saved_for_a_training_that_goes_on(trained):
    saved = torch.load(f"{trained.work_dir}/iter_2.pth", weights_only=False)
    now, average = trained.model.state_dict(), saved["state_dict"]
    key = "roi_head.bbox_head.fc_cls.weight"
    assert not torch.equal(now[key], average[key])
    assert torch.equal(now[key], saved["ema_state_dict"][f"module.{key}"])


def test_a_training_that_is_resumed_goes_on_with_the_average(trained, shapes, tmp_path):
    saved = torch.load(f"{trained.work_dir}/iter_1.pth", weights_only=False)
    cfg = shapes_config(shapes, tmp_path)
    configs.use_ema(cfg, True)
    resume_from(cfg, f"{trained.work_dir}/iter_1.pth")
    runner, found = build_runner(cfg, ("train", "val")), {}
    (average,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))

    class Look(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            for name, model in (("state_dict", average.ema_model.module), ("now", runner.model)):
                found[name] = deepcopy(model.state_dict())
            found["steps"] = average.ema_model.steps.clone()

    runner.register_hook(Look())
    runner.train()
    assert found.pop("steps") == saved["ema_state_dict"].pop("steps") == 1
    now = {name.removeprefix("module."): each for name, each in saved["ema_state_dict"].items()}
    torch.testing.assert_close(
        found, {"state_dict": saved["state_dict"], "now": now}, rtol=0, atol=0
    )
    assert torch.load(f"{tmp_path}/iter_2.pth", weights_only=False)["ema_state_dict"]["steps"] == 2


def test_a_training_is_the_same_to_the_last_bit_without(trained, shapes, tmp_path):
    cfg = shapes_config(shapes, tmp_path, val_loss=False)
    configs.use_ema(cfg, True)
    without = train(cfg)
    assert not any("val/loss" in entry for entry in logged(without))
    states = [
        torch.load(f"{each.work_dir}/iter_2.pth", weights_only=False) for each in (trained, without)
    ]
    states = [
        {"momenta": each["optimizer"]["state"], **each["ema_state_dict"], **each["state_dict"]}
        for each in states
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_training_without_progress_is_stopped(shapes, tmp_path, capsys, recwarn):
    options = {"train_cfg.max_iters": 9, "model.test_cfg.rcnn.score_thr": 1.1}  # nothing is found
    cfg = shapes_config(shapes, tmp_path, **options)
    configs.use_early_stopping(cfg, 1)
    # what cannot compute the loss says so once
    del cfg.val_dataloader.dataset.pipeline[2]
    runner = train(cfg)
    assert runner.iter == 2
    assert "stopped early, after 2 of 9 iterations" in capsys.readouterr().out
    warned = " ".join(str(each.message) for each in recwarn)
    assert "early stop" not in warned
    assert "optimizer.step()" not in warned
    assert logged(runner)[-1]["coco/segm_mAP"] == 0
    assert not any("val/loss" in entry for entry in logged(runner))
    (log,) = tmp_path.glob("*/*.log")
    reason = "no loss on the validation set: ConfigError: the pipeline of val_dataloader has no"
    assert log.read_text().count(reason) == 1


# detectors of other kinds

DETECTORS = [
    "retinanet/retinanet_convnext-t_coco",
    "dino/dino_4scale_convnext-t_coco",  # its training mode adds queries
    "rtmdet/rtmdet_ins_convnext-t_coco",
]


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_any_kind_have_one(name, coco_tiny, monkeypatch):
    monkeypatch.setattr(val_loss, "_is_resized_first", lambda dataset: False)
    cfg = narrow_config(f"mmconvnext::{name}")
    model, batch = build(cfg).eval(), batches(cfg, coco_tiny)[0]
    before, random = deepcopy(model.state_dict()), torch.get_rng_state()
    hub = MessageHub.get_instance(name)
    runner = SimpleNamespace(model=model, val_loop=Mock(fp16=False), message_hub=hub)
    runner.val_dataloader = MagicMock(**{"__len__.return_value": 1})
    hook, metrics = ValidationLossHook(), {"coco/bbox_mAP": 0.5}
    hook.before_val_epoch(runner)
    with torch.no_grad():
        model.val_step(deepcopy(batch))
    first = float(hook._losses(runner, 0, batch)["loss"])
    hook.after_val_iter(runner, batch_idx=0, data_batch=batch, outputs=None)
    hook.after_val_epoch(runner, metrics)
    assert next(iter(metrics)) == "coco/bbox_mAP", "what save_best='auto' takes"
    assert metrics["val/loss"] == first > 0
    # as if nothing had been
    assert torch.equal(random, torch.get_rng_state())
    assert "extract_feat" not in vars(model)
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_it_is_the_mean_over_the_images_of_all_processes(monkeypatch):
    gathered = [(Counter(loss=6.0), 3), (Counter(loss=2.0), 1)]
    monkeypatch.setattr(
        val_loss, "all_gather_object", lambda own: [own] if isinstance(own, int) else gathered
    )
    runner = SimpleNamespace(val_dataloader=[], message_hub=MessageHub.get_instance("processes"))
    hub = runner.message_hub
    hub.update_scalar("val/val/loss", 9.0)
    runner.model = Mock(extract_feat=None)
    hook, metrics = ValidationLossHook(), {"coco/bbox_mAP": 0.5}
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner, metrics)
    assert metrics == {"coco/bbox_mAP": 0.5, "val/loss": 2.0}
    assert hub.get_scalar("val/val/loss").mean(50) == 2.0, "what is logged"


def test_objects_are_where_the_resized_and_padded_picture_has_them(shapes):
    cfg = configs.load_config("mask_rcnn_convnext_shapes.py")
    configs.set_data_root(cfg, str(shapes))
    load, _, objects, pack = cfg.test_pipeline
    resize = {"type": "Resize", "scale": (90, 60), "keep_ratio": False}
    pad = {"type": "Pad", "size": (128, 128), "pad_val": {"img": 0, "masks": 0}}
    samples = []
    for pipeline in ([load, resize, pad, objects, pack], [load, objects, resize, pad, pack]):
        dataset = {**cfg.val_dataloader.dataset, "pipeline": pipeline}
        samples.append(DATASETS.build(dataset)[0]["data_samples"])
    before = deepcopy(samples[0])
    found, expected = resized(samples[0]).gt_instances, samples[1].gt_instances
    torch.testing.assert_close(found.bboxes.tensor, expected.bboxes.tensor)
    assert (found.masks.masks == expected.masks.masks).all()
    original = samples[0].gt_instances
    assert torch.equal(original.bboxes.tensor, before.gt_instances.bboxes.tensor)
    assert original.masks.masks.shape == before.gt_instances.masks.masks.shape


def test_a_batch_that_some_processes_do_not_have_is_left_out(monkeypatch):
    """In it, heads that divide by counts of all processes would wait for ever."""
    monkeypatch.setattr(val_loss, "all_gather_object", lambda own: [own, own - 1])
    hook = ValidationLossHook()
    hook._losses = lambda runner, index, batch: {"loss": torch.tensor(float(index))}
    runner = SimpleNamespace(model=Mock(spec=torch.nn.Module), val_dataloader=[None] * 3)
    runner.model.extract_feat = None
    hook.before_val_epoch(runner)
    for index in range(3):
        hook.after_val_iter(runner, index, {"data_samples": [None] * 2})
    assert (hook._images, hook._sums) == (4, Counter(loss=2.0))
