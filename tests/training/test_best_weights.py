"""The best checkpoint's weights as safetensors, and what the JSON file says of them."""

import hashlib
import json

import pytest
import torch
from mmengine.optim import OptimWrapper
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.training.checkpoints import WholeCheckpointHook
from tests.line import Line


@pytest.fixture
def runner(tmp_path):
    def build(**hook):
        model = Line()
        data = DataLoader([{"inputs": 1.0}])
        runner = DetectionRunner(
            model,
            str(tmp_path),
            train_dataloader=data,
            train_cfg={"by_epoch": False, "max_iters": 4},
            optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)),
            default_hooks={
                "checkpoint": {
                    "type": "CheckpointHook",
                    "by_epoch": False,
                    "interval": 2,
                    "save_best": ["coco/bbox_mAP", "coco/segm_mAP"],
                    "rule": "greater",
                    **hook,
                }
            },
            custom_hooks=[{"type": "EMAHook", "momentum": 0.5}],
            default_scope="mmdet",
            experiment_name=f"{tmp_path}{hook}",
        )
        runner.train()
        return runner

    return build


def validate(runner, box, mask):
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, WholeCheckpointHook))
    hook.after_val_epoch(runner, {"coco/bbox_mAP": box, "coco/segm_mAP": mask})


def names(folder, pattern="best*"):
    return sorted(path.name for path in folder.glob(pattern))


def test_the_best_weights_lie_beside_their_checkpoint(tmp_path, runner):
    runner = runner()
    folder = runner.log_dir
    findings = [{"kind": "no area", "severity": "fill", "text": "", "records": ["7"], "count": 1}]
    with open(f"{folder}/data_checks.json", "w") as file:
        json.dump([{"file": "a.json", "images": 3, "findings": findings}], file)
    with open(f"{folder}/run.json", "w") as file:
        json.dump({"packages": {"torch": "2"}, "mmconvnext": "1", "git_revision": "abc"}, file)
    validate(runner, 0.25, 0.5)
    suffixes = (".json", ".pth", ".safetensors")
    stems = [f"best_coco_{kind}_mAP_iter_4" for kind in ("bbox", "segm")]
    assert names(tmp_path) == [stem + suffix for stem in stems for suffix in suffixes]
    path = tmp_path / f"{stems[1]}.safetensors"
    saved = torch.load(path.with_suffix(".pth"), weights_only=False)
    weights = load_file(path)
    assert weights.keys() == saved["state_dict"].keys() == {"weight"}
    # the average of 1, 0.9, 0.8, 0.7 and 0.6, not the last one
    assert weights["weight"].item() == saved["state_dict"]["weight"].item() > 0.61
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (about["epoch"], about["iter"], about["averaged"]) == (0, 4, True)
    assert about["metrics"] == {"coco/bbox_mAP": 0.25, "coco/segm_mAP": 0.5}
    assert about["versions"]["torch"] == "2"
    assert about["mmconvnext"] == {"mmconvnext": "1", "git_revision": "abc"}
    assert len(about["config_sha256"]) == 64
    assert about["data_checks"] == [{"file": "a.json", "images": 3, "findings": {"no area": 1}}]

    runner._train_loop._iter = 6
    validate(runner, 0.3, 0.1)  # one is better, the other one stays
    assert names(tmp_path, "best*.json") == [
        "best_coco_bbox_mAP_iter_6.json",
        "best_coco_segm_mAP_iter_4.json",
    ]
    assert len(names(tmp_path)) == 6


def test_they_can_be_left_out(tmp_path, runner):
    validate(runner(weights=False), 0.25, 0.5)
    assert {name[-4:] for name in names(tmp_path)} == {".pth"}


def test_what_cannot_be_written_is_said(tmp_path, runner, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    runner = runner()
    monkeypatch.setattr("mmconvnext.training.checkpoints.write_weights", full)
    validate(runner, 0.25, 0.5)
    assert {name[-4:] for name in names(tmp_path)} == {".pth"}
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "the best weights are not written as safetensors: [Errno 28] No space left" in log
