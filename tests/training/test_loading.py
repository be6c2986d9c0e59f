"""Pictures that vanish or change, drives that stall and processes that die during a training."""

import json
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from mmconvnext.engine.runner import DetectionRunner
from mmconvnext.errors import DataError, UserError
from mmconvnext.training import loading
from mmconvnext.training.checkpoints import find_fault
from mmconvnext.training.loading import LoadingError, leaves, load_safely

PICTURES = 24
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path")},
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(loading, "WAITS_S", (0.0, 0.01))


@pytest.fixture
def root(tmp_path):
    """A data set of small pictures."""
    images, boxes = [], []
    for index in range(PICTURES):
        picture = np.full((8, 10, 3), index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), picture)
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 8, "width": 10})
        box = {"id": index, "image_id": index, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
        boxes.append({**box, "iscrowd": 0})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path


def settings(root: Path, workers: int = 0, batch: int = 2, **changes) -> dict:
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(root / "a.json"),
        "data_prefix": {"img": str(root)},
        "metainfo": {"classes": ("a",)},
        "pipeline": PIPELINE,
    }
    sampler = {"type": "DefaultSampler", "shuffle": False}
    loader = {"batch_size": batch, "num_workers": workers, "dataset": dataset, "sampler": sampler}
    return {**loader, **changes}


def load(root: Path, share: float | None = 0.01, seed: int = 0, **options):
    """A loader as a runner has it."""
    loader = DetectionRunner.build_dataloader(settings(root, **options))
    load_safely(loader, seed, root, share)
    return loader


def names(loader) -> list[str]:
    samples = [sample for batch in loader for sample in batch["data_samples"]]
    return [Path(sample.img_path).stem for sample in samples]


def replaced(root: Path) -> list[dict]:
    path = root / loading.REPLACED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("fault", ["vanished", "empty", "cut", "other"])
def test_a_picture_is_replaced_by_the_same_one(root, fault):
    loader = load(root, workers=2)
    path = root / "5.jpg"
    time.sleep(0.02)  # the system's clock of files has ticks
    if fault == "vanished":
        path.unlink()
    elif fault == "other":
        cv2.imwrite(str(path), np.zeros((30, 30, 3), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[: 0 if fault == "empty" else -20])
    first = names(loader)
    assert len(first) == PICTURES
    assert [i for i, name in enumerate(first) if name != str(i)] == [5]
    if fault != "other":  # which was so from the start for a training that starts now
        assert names(load(root)) == first
        assert names(load(root, seed=1))[5] != first[5]
    lines = replaced(root)
    assert {line["picture"] for line in lines} == {str(path)}
    assert lines[0]["replaced_by"] == str(root / f"{first[5]}.jpg")


def test_what_is_there_again_is_not_replaced(root, monkeypatch):
    loader, path = load(root), root / "3.jpg"
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(loading.time, "sleep", lambda seconds: path.write_bytes(content))
    assert names(loader) == [str(index) for index in range(PICTURES)]
    assert replaced(root) == []


def test_too_many_are_refused_by_name(root):
    loader = load(root)
    for index in range(0, PICTURES, 2):
        (root / f"{index}.jpg").unlink()
    with pytest.raises(LoadingError, match=r"11 of 24 .* the 10 that max_replaced_pictures") as e:
        names(loader)
    assert str(root / "0.jpg") in str(e.value)
    assert str(root / loading.REPLACED) in str(e.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_drive_that_is_gone_is_noticed_soon(root, workers):
    loader = load(root, workers=workers)
    for path in root.glob("*.jpg"):
        path.unlink()
    with pytest.raises(LoadingError, match=r"^5 pictures in a row cannot be read, .*jpg: File"):
        names(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_leaves_none_out(root, workers):
    loader = load(root, share=None, workers=workers)
    (root / "7.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^the picture \S+/7\.jpg cannot be read .* leave it out$"):
        names(loader)
    assert replaced(root) == []


def test_mistakes_of_transforms_are_raised_at_once(root):
    loader = load(root)
    (leaf,) = leaves(loader.dataset)

    def wrong(results):
        raise ValueError("a mistake")

    leaf.pipeline.transforms.append(wrong)
    with pytest.raises(ValueError, match="a mistake"):
        names(loader)


def test_data_sets_in_others_are_found(root):
    dataset = {"type": "RepeatDataset", "times": 2, "dataset": settings(root)["dataset"]}
    loader = load(root, dataset={"type": "ConcatDataset", "datasets": [dataset] * 2})
    assert len({*map(id, leaves(loader.dataset))}) == 2
    (root / "5.jpg").unlink()
    found = names(loader)
    assert len(found) == 4 * PICTURES
    assert len(replaced(root)) == 4
    assert len({found[n * PICTURES + 5] for n in range(4)}) == 1


@pytest.mark.slow
def test_a_stalled_file_is_named_in_time(root):
    loader = load(root, workers=1, timeout=1)
    (root / "9.jpg").unlink()
    os.mkfifo(root / "9.jpg")  # opening it waits for a writer
    start = time.monotonic()
    with pytest.raises(LoadingError, match=rf"in 1 s .*{root}/9\.jpg \(for \d s\)$"):
        names(loader)
    assert time.monotonic() - start < 30
    assert DetectionRunner.build_dataloader(settings(root, workers=1)).timeout == 300
    assert DetectionRunner.build_dataloader(settings(root)).timeout == 0


class Killer(BaseModel):
    """Kills a process that loads, within its third step."""

    def __init__(self):
        super().__init__()
        self.weight, self.steps = torch.nn.Parameter(torch.ones(1)), 0

    def forward(self, inputs, data_samples, mode="loss"):
        self.steps += 1
        if self.steps == 3:
            (worker,) = self.loader._iterator._workers
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
            time.sleep(0.1)  # the signal of its death has come
        return {"loss": self.weight.sum()}


def test_a_dead_process_ends_the_training_with_a_checkpoint(root):
    model = Killer()
    runner = DetectionRunner(
        model,
        str(root / "work"),
        train_dataloader=settings(root, workers=1, persistent_workers=True),
        train_cfg={"by_epoch": False, "max_iters": 12},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.125)),
        experiment_name=str(root),
        default_scope="mmdet",
    )
    runner._train_loop = runner.build_train_loop({"by_epoch": False, "max_iters": 12})
    model.loader = runner.train_loop.dataloader
    with pytest.raises(UserError, match=r"loads data died \(.*Killed.* goes on from (\S+\.pth)"):
        runner.train()
    (path,) = (root / "work").glob("*.pth")
    assert find_fault(path) is None
    done = int(path.stem.removeprefix("iter_"))
    assert done >= 3
    state = torch.load(path, weights_only=False)
    assert state["meta"]["iter"] == done
    assert state["state_dict"]["weight"] == 1 - done / 8  # the step was not cut off
