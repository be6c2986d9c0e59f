"""Training, resuming and evaluating on real COCO images through the command lines."""

import json
import pickle

import numpy as np
import pytest
import torch

CONFIG = "configs/cascade_convnext_overfit.py"
# Two iterations instead of hundreds, small pictures, few RoIs, and every box is a detection.
SHORT = [
    "--cfg-options",
    "train_dataloader.dataset.pipeline.2.scale=(256,192)",
    "val_dataloader.dataset.pipeline.1.scale=(256,192)",
    "test_dataloader.dataset.pipeline.1.scale=(256,192)",
    "tta_pipeline.1.transforms.0.0.scale=(256,192)",
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=1",
    "default_hooks.logger.interval=1",
    "val_dataloader.dataset.indices=3",
    "test_dataloader.dataset.indices=3",
    "model.test_cfg.rcnn.score_thr=0.0",
    "model.test_cfg.rcnn.max_per_img=10",
    "model.test_cfg.rpn.max_per_img=50",
]
# One start of the processes for both commands.
BOTH = """
import os
from mmengine.config import config
from mmconvnext import cli

config.FormatCode = lambda text, **_: (text, True)
assert cli.main({}) == 0
if os.environ["RANK"] == "0":
    print("now the test")
assert cli.main({}) == 0
"""


def succeeded(process):
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout + process.stderr


@pytest.fixture(scope="module")
def trained(run_tool, coco_tiny, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("trained")
    arguments = ("train.py", CONFIG, "--data-root", coco_tiny, "--work-dir", work_dir)
    return work_dir, succeeded(run_tool(*arguments, "--from-scratch", *SHORT))


@pytest.fixture(scope="module")
def tested(run_tool, coco_tiny, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tested")
    arguments = ["test.py", CONFIG, trained[0] / "iter_2.pth", "--data-root", coco_tiny]
    arguments += ["--work-dir", out, "--out", out / "predictions.pkl", "--classwise"]
    return out, succeeded(run_tool(*arguments, "--show-dir", out / "pictures", *SHORT))


def predictions(path):
    """Image id -> boxes, scores, labels and masks of the detections in a dumped file."""
    with path.open("rb") as file:
        samples = pickle.load(file)
    return {sample["img_id"]: sample["pred_instances"] for sample in samples}


def test_training_logs_what_it_changed_and_leaves_checkpoints(trained):
    work_dir, output = trained
    assert "from scratch: not loading" in output
    assert output.count("no GPU: AmpOptimWrapper -> OptimWrapper") == 1
    assert "iteration 2/2 | loss " in output
    assert "best coco/segm_mAP: " in output
    assert f"mmconvnext report {work_dir}" in output
    lines = output[: output.index("iteration 2/2")].splitlines()
    assert len(lines) <= 40, "before the first number"
    assert (work_dir / "iter_1.pth").is_file()
    assert (work_dir / "iter_2.pth").is_file()


def test_a_run_writes_down_what_it_was_made_with(trained):
    (path,) = trained[0].glob("*/run.json")
    info = json.loads(path.read_text())
    assert info["config"].endswith("cascade_convnext_overfit.py")
    assert info["packages"]["mmdet"]
    assert info["git_revision"]
    assert info["hardware"]["cores"]
    assert list(trained[0].glob("*.py")), "the config lies beside the checkpoints"


def test_resuming_goes_on_where_the_run_stopped(main, coco_tiny, trained, tmp_path):
    arguments = ["train", CONFIG, "--data-root", coco_tiny, "--work-dir", tmp_path]
    longer = [o if "max_iters" not in o else "train_cfg.max_iters=3" for o in SHORT]
    output = main(*arguments, "--resume", trained[0] / "iter_2.pth", *longer)
    assert "resuming" in output
    assert "iteration 3/3 |" in output
    assert "iteration 1/3" not in output
    before = torch.load(trained[0] / "iter_2.pth", map_location="cpu", weights_only=False)
    after = torch.load(tmp_path / "iter_3.pth", map_location="cpu", weights_only=False)
    assert after["meta"]["iter"] == 3
    assert len(after["message_hub"]["log_scalars"]["train/loss"]._log_history) == 3
    step = next(iter(before["optimizer"]["state"].values()))["step"]
    assert next(iter(after["optimizer"]["state"].values()))["step"] == step + 1


def test_testing_prints_the_table_and_writes_it(tested):
    out, output = tested
    assert "COCO, 0-100" in output
    assert "| box" in output
    assert "| mask" in output
    assert "AP of a class" in output
    result = json.loads((out / "result.json").read_text())
    assert {"bbox_mAP", "bbox_mAP_s", "segm_mAP", "segm_mAP_75"} <= result["metrics"].keys()
    assert "person" in result["classwise"]["bbox"]
    assert "person" in result["classwise"]["segm"]
    assert len(list((out / "pictures").rglob("*.jpg"))) == 3
    assert len(predictions(out / "predictions.pkl")) == 3


def test_a_report_of_the_training_has_the_numbers_of_the_test(main, coco_tiny, trained, tested):
    output = main("report", trained[0], "--data-root", coco_tiny)
    page = trained[0] / "report" / "report.html"
    assert f"written to {page}" in output
    found, expected = (
        json.loads((folder / "result.json").read_text()) for folder in (page.parent, tested[0])
    )
    assert found["metrics"] == expected["metrics"]
    assert "loss_mask" in page.read_text(), "the curves of the training"
    assert "is not tested again" in main("report", trained[0], "--pictures", 3)
    other = main("report", trained[0], "--data-root", trained[0], code=1)  # other data is tested
    assert "is not tested again" not in other


@pytest.mark.slow
def test_mirrored_images_are_tested_too(main, coco_tiny, trained, tmp_path):
    arguments = ["test", CONFIG, trained[0] / "iter_2.pth", "--data-root", coco_tiny, "--tta"]
    dump = ["--out", tmp_path / "predictions.pkl", "--work-dir", tmp_path]
    main(*arguments, *dump, *SHORT, "tta_model.tta_cfg.max_per_img=5")
    for found in predictions(tmp_path / "predictions.pkl").values():
        assert 0 < len(found["bboxes"]) <= 5
        assert len(found["masks"]) == len(found["bboxes"])
        assert torch.all(found["scores"].diff() <= 0)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(run_tool, coco_tiny, tested, trained, tmp_path):
    common = ["--data-root", coco_tiny, "--launcher", "pytorch", "--work-dir"]
    train = ["train", CONFIG, *common, tmp_path / "train", *SHORT]
    test = ["test", CONFIG, trained[0] / "iter_2.pth", *common, tmp_path]
    test += ["--out", tmp_path / "predictions.pkl", "--classwise", *SHORT]
    script = tmp_path / "both.py"
    script.write_text(BOTH.format([*map(str, train)], [*map(str, test)]))
    output = succeeded(run_tool(script, processes=2))
    assert "no GPU: processes communicate through gloo" in output
    assert (tmp_path / "train" / "iter_2.pth").is_file()
    assert output.partition("now the test")[2].count("COCO, 0-100") == 1
    one, two = (
        json.loads((folder / "result.json").read_text()) for folder in (tested[0], tmp_path)
    )
    assert two["metrics"] == one["metrics"]
    assert two["classwise"] == one["classwise"]
    alone, shared = (predictions(f / "predictions.pkl") for f in (tested[0], tmp_path))
    assert alone.keys() == shared.keys()
    for image in alone:
        # one thread a process sums in another order
        for key in ("bboxes", "scores"):
            np.testing.assert_allclose(alone[image][key], shared[image][key], rtol=1e-3, atol=1e-3)
