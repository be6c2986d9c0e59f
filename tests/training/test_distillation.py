"""A teacher in a training: what it adds to the losses, and what of it must not be anywhere."""

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmconvnext.data import CLASSES
from mmconvnext.engine.config import load_config
from mmconvnext.engine.distillation import Found, find_teacher, teach
from mmconvnext.engine.runner import build_runner, resume_from
from mmconvnext.errors import ConfigError, MissingCheckpointError, UserError, WeightsError
from tests.configs.detector_steps import narrow_config
from tests.training.processes import tiny, train

LOSSES = {
    "feature": {"type": "PKDLoss", "loss_weight": 2.0},
    "logits": {"type": "SoftTargetLoss", "temperature": 2.0, "background_weight": 1.5},
}
EMA = [{"type": "EMAHook", "momentum": 0.1, "update_buffers": True}]
STUDENT = {"custom_hooks": EMA}
KINDS = ("mask_rcnn_convnext_shapes", "cascade_convnext_shapes")


def write_teacher(folder: Path, kind: str = KINDS[0], **meta) -> dict:
    """A teacher's config and checkpoint, whose weights are random."""
    init_default_scope("mmdet")  # fixtures of a module come before the one that sets it
    cfg = narrow_config(f"mmconvnext::{kind}.py")
    cfg.model.backbone.arch["depths"] = (1, 1, 2, 1)
    folder.mkdir(exist_ok=True)
    cfg.dump(folder / f"teacher_{kind}.py")
    torch.manual_seed(7)
    state = MODELS.build(cfg.model).state_dict()
    torch.save({"state_dict": state, "meta": meta}, folder / f"teacher_{kind}.pth")
    names = {key: str(folder / f"teacher_{kind}.{key}") for key in ("py", "pth")}
    return {"config": names["py"], "checkpoint": names["pth"], **deepcopy(LOSSES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distillation")


@pytest.fixture(scope="module")
def teachers(folder):
    meta = {"dataset_meta": {"classes": CLASSES}}
    return {kind: write_teacher(folder, kind, **meta) for kind in KINDS}


@pytest.fixture(scope="module")
def trained(folder, teachers):
    """Two steps, validated after each, with an average of the weights."""
    options = {"teacher": teachers[KINDS[0]], "train_cfg.val_begin": 1, "train_cfg.val_interval": 1}
    runner = build_runner(cfg := tiny(folder, "whole", 2, **STUDENT, **options), ("train", "val"))
    before = deepcopy(runner.model.teacher.model.state_dict())
    runner.train()
    return SimpleNamespace(runner=runner, before=before, cfg=cfg)


def taught(teacher: dict, kind: str = KINDS[0], **changes) -> torch.nn.Module:
    """A student with a teacher, without a runner."""
    cfg = narrow_config(f"mmconvnext::{kind}.py")
    cfg.merge_from_dict({**changes, "teacher": deepcopy(teacher)})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    state = torch.get_rng_state()
    teach(model, cfg, find_teacher(cfg))
    assert torch.equal(state, torch.get_rng_state()), "it would not start as it does alone"
    return model


def batch(model: torch.nn.Module) -> dict:
    torch.manual_seed(1)
    data = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[2, 3], num_classes=3, with_mask=True)
    return model.data_preprocessor(data, True)


# Three stages learn from three, and one from the first of three, too.
@pytest.mark.parametrize(("kind", "of_teacher"), [(KINDS[0],) * 2, (KINDS[1],) * 2, KINDS])
def test_losses_are_those_computed_by_hand(kind, of_teacher, teachers, monkeypatch):
    model = taught(teachers[of_teacher], kind)
    teacher, heads, seen = model.teacher.model, model.roi_head.bbox_head, []
    single = kind == KINDS[0]
    for head in [heads] if single else heads:

        def spy(*args, original=head.loss_and_target, **given):
            seen.append((bbox2roi([r.priors for r in given["sampling_results"]]), given))
            return original(*args, **given)

        monkeypatch.setattr(head, "loss_and_target", spy)
    data = batch(model)
    losses = model(**data, mode="loss")
    own, other = model.eval().extract_feat(data["inputs"]), teacher.extract_feat(data["inputs"])
    assert len(seen) == (1 if single else 3)
    for index, (rois, given) in enumerate(seen):
        stage = (index,) if of_teacher != KINDS[0] else ()
        wanted = teacher.roi_head._bbox_forward(*stage, other, rois)["cls_score"]
        p, q = ((x / 2).softmax(1) for x in (wanted, given["cls_score"]))
        weights = torch.tensor([1, 1, 1, 1.5])
        expected = 4 * (weights * p * (p / q).log()).sum() / len(rois)
        name = "loss_distill_logits" if single else f"s{index}.loss_distill_logits"
        weight = 1 if single else model.roi_head.stage_loss_weights[index]
        torch.testing.assert_close(losses[name], weight * expected, rtol=1e-3, atol=1e-6)
        assert losses[name] != 0
    # BN of the student's neck has statistics of the batch in a training
    model.train()
    own = model.extract_feat(data["inputs"])
    levels = [torch.stack(pair).transpose(1, 2).flatten(2) for pair in zip(own, other, strict=True)]
    expected = sum(
        2 * sum(1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*level, strict=True))
        / level.shape[1]
        for level in levels
    )  # fmt: skip
    torch.testing.assert_close(losses["loss_distill_feature"], expected, rtol=1e-2, atol=1e-2)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(teachers):
    given = teachers[KINDS[0]]
    model = taught(given, **{"model.backbone.arch.depths": (1, 1, 2, 1)})
    model.load_state_dict(model.teacher.model.state_dict())
    losses = model.eval()(**batch(model), mode="loss")
    assert losses["loss_distill_feature"].item() == pytest.approx(0, abs=1e-5)
    assert losses["loss_distill_logits"].item() == pytest.approx(0, abs=1e-6)


def test_losses_reach_the_student_alone_and_in_mixed_precision(teachers):
    model = taught(teachers[KINDS[0]]).train()
    assert not model.teacher.model.training
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**batch(model), mode="loss")
    added = losses["loss_distill_feature"] + losses["loss_distill_logits"]
    assert added.dtype == torch.float32
    added.backward()
    for name in (
        "backbone.stages.0.0.pwconv1",
        "neck.fpn_convs.0.conv",
        "roi_head.bbox_head.fc_cls",
    ):
        assert model.get_submodule(name).weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.model.parameters())
    with torch.no_grad():
        assert not [k for k in model(**batch(model), mode="loss") if "distill" in k]


def test_the_teacher_is_nowhere_but_in_the_losses(trained):
    runner, cfg = trained.runner, trained.cfg
    after = runner.model.teacher.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in trained.before.items())
    plain = MODELS.build(cfg.model)
    assert type(plain).__name__ == type(runner.model).__name__
    saved = torch.load(Path(cfg.work_dir) / "iter_2.pth", weights_only=False)
    for key in ("state_dict", "ema_state_dict"):
        assert plain.state_dict().keys() <= {k.removeprefix("module.") for k in saved[key]}
        assert not [k for k in saved[key] if "teacher" in k]
    plain.load_state_dict(saved["state_dict"], strict=True)
    trainable = sum(p.requires_grad for p in plain.parameters())
    assert sum(len(g["params"]) for g in saved["optimizer"]["param_groups"]) == trainable


def test_the_log_has_the_losses_by_name_and_the_validation_the_students_own(trained):
    path = Path(trained.runner.log_dir, "vis_data", "scalars.json")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    assert all({"loss_distill_feature", "loss_distill_logits"} <= entry.keys() for entry in steps)
    validated = [entry for entry in entries if "coco/bbox_mAP" in entry]
    assert len(validated) == 2
    assert all("val/loss" in entry and "distill" not in str(entry) for entry in validated)


def test_a_taught_training_resumes_exactly(trained, folder, teachers):
    cfg = tiny(folder, "resumed", 2, **STUDENT, teacher=teachers[KINDS[0]])
    resume_from(cfg, str(Path(trained.cfg.work_dir) / "iter_1.pth"))
    build_runner(cfg, ("train", "val")).train()
    pair = [
        torch.load(Path(each.work_dir) / "iter_2.pth", weights_only=False)["state_dict"]
        for each in (trained.cfg, cfg)
    ]
    assert all(torch.equal(value, pair[1][key]) for key, value in pair[0].items())


def test_the_checkpoint_is_tested_by_the_same_config_without_the_teacher(trained, folder, main):
    cfg = deepcopy(trained.cfg)
    cfg.teacher.update(config="gone.py", checkpoint="gone.pth")
    cfg.dump(folder / "student.py")
    checkpoint = Path(cfg.work_dir) / "iter_2.pth"
    said = main("test", folder / "student.py", checkpoint, "--work-dir", folder / "tested")
    assert "AP50" in said
    assert (folder / "tested" / "result.json").is_file()


def in_each_process(folder: Path) -> dict:
    """Train by distributed data parallel and sharded, with a teacher."""
    given = {"teacher": write_teacher(folder / str(torch.distributed.get_rank()))}
    start = {"load_from": str(folder / "start.pth"), "custom_hooks": EMA, **given}
    return {
        "plain": train(tiny(folder, "taught", 2, **start)),
        "sharded": train(tiny(folder, "taught_sharded", 2, **start, shard=True)),
        "alone": train(tiny(folder, "alone", 1, **{**start, "teacher": None})),
    }


def test_several_processes_and_sharding(two_processes):
    for came in two_processes("test_distillation"):
        torch.testing.assert_close(came["sharded"], came["plain"], rtol=1e-6, atol=1e-6)
        assert came["plain"][0][0] > came["alone"][0][0] + 0.1


# What a config says otherwise, and what the message names.
SETTINGS = {
    "another key": ({"methods": 1}, "config, checkpoint, feature, logits, and no 'methods'"),
    "no losses": ({"feature": None, "logits": None}, "neither feature nor logits"),
    "no config": ({"config": None}, r"teacher\.config is missing"),
    "no checkpoint": ({"checkpoint": None}, r"teacher\.checkpoint is missing, and .*py is no work"),
    "no such checkpoint": ({"checkpoint": "gone.pth"}, "gone.pth"),
    "no such config": ({"config": "gone.py"}, "there is no config file gone.py"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be_are_refused(case, teachers):
    changes, message = SETTINGS[case]
    cfg = Config({"teacher": {**teachers[KINDS[0]], **changes}})
    with pytest.raises((ConfigError, MissingCheckpointError), match=message):
        find_teacher(cfg)


def test_no_settings_are_no_teacher_and_some_go_with_no_other(teachers):
    assert find_teacher(Config({"teacher": None})) is None
    with pytest.raises(ConfigError, match="not 'cascade'"):
        find_teacher(Config({"teacher": "cascade"}))
    with pytest.raises(ConfigError, match="global_losses with a teacher"):
        find_teacher(Config({"teacher": teachers[KINDS[0]], "global_losses": True}))


MISFITS = {
    "channels": ({"model.neck.out_channels": 16}, "the student's have 16 channels"),
    "pixels": ({"model.data_preprocessor.mean": [0, 0, 0]}, r"the student's \(\[0, 0, 0\]"),
    "number of classes": (
        {"model.roi_head.bbox_head.num_classes": 5},
        "student's head has 5 classes",
    ),
    "names of classes": (
        {"train_dataloader.dataset.metainfo.classes": ("disk", "cross", "star")},
        "does not know 'star'",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_teacher_that_does_not_fit_is_refused(case, teachers):
    changes, message = MISFITS[case]
    if case == "channels":
        parts = ("rpn_head.in", "roi_head.bbox_head.in", "roi_head.mask_head.in")
        parts += ("roi_head.bbox_roi_extractor.out", "roi_head.mask_roi_extractor.out")
        changes |= {f"model.{part}_channels": 16 for part in parts}
    with pytest.raises(ConfigError, match=message):
        taught(teachers[KINDS[0]], **changes)


def test_features_alone_go_with_other_classes(teachers):
    changes, _ = MISFITS["names of classes"]
    model = taught({**teachers[KINDS[0]], "logits": None}, **changes)
    assert "loss_distill_logits" not in model(**batch(model), mode="loss")


def test_fewer_stages_one_stage_and_other_weights_are_refused(teachers, folder):
    with pytest.raises(ConfigError, match="the student has 3 stages, the teacher 1"):
        taught(teachers[KINDS[0]], KINDS[1])
    with pytest.raises(WeightsError, match="does not fit the model"):
        taught({**teachers[KINDS[0]], "checkpoint": teachers[KINDS[1]]["checkpoint"]})
    one_stage = narrow_config("mmconvnext::retinanet/retinanet_convnext-t_coco.py")
    path = folder / "retinanet.pth"
    torch.save({"state_dict": MODELS.build(one_stage.model).state_dict()}, path)
    cfg = narrow_config(f"mmconvnext::{KINDS[0]}.py")
    cfg.teacher = deepcopy(LOSSES)
    student = MODELS.build(cfg.model)
    one_stage.model.data_preprocessor = cfg.model.data_preprocessor
    with pytest.raises(ConfigError, match="RetinaNet has no RoI head"):
        teach(student, cfg, Found(one_stage, path, "retinanet.pth"))


@pytest.mark.parametrize("name", ["from_demo_shapes", "v2_atto_from_t_coco"])
def test_configs_name_a_teacher_with_the_same_neck_and_pixels(name):
    cfg = load_config(f"distill/mask_rcnn_convnext{'_' * name.startswith('from')}{name}.py")
    assert all(cfg.teacher[key] for key in LOSSES)
    if name.startswith("from"):  # what the demo leaves, by a config that is there
        with pytest.raises(UserError, match="demo/train is no work folder"):
            find_teacher(cfg)
        teacher = load_config("mask_rcnn_convnext_shapes.py")
    else:
        teacher = load_config(cfg.teacher.config)
    assert teacher.model.neck.out_channels == cfg.model.neck.out_channels
    for key in ("mean", "std", "bgr_to_rgb"):
        assert teacher.model.data_preprocessor[key] == cfg.model.data_preprocessor[key]
