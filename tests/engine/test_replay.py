"""A step whose loss or gradient was not finite is done again from its file."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel

from mmconvnext import cli
from mmconvnext.engine.replay import read_record, replay
from mmconvnext.engine.runner import build_runner
from mmconvnext.errors import DataError, UserError

CONFIG = """
default_scope = "mmdet"
model = dict(type="BlackIsNaN")
train_cfg = dict(by_epoch=False, max_iters=4)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset", data_root=ROOT, ann_file="a.json", data_prefix=dict(img=""),
        metainfo=dict(classes=("a",)),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path")),
        ],
    ),
)
"""
BLACK = 3


@MODELS.register_module()
class BlackIsNaN(BaseModel):
    """Its loss has a random part; its gradient is not finite where a picture has large noise."""

    def __init__(self, data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor, init_cfg)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples, mode="loss"):
        mean = torch.stack([each.float().mean() for each in inputs])
        loss = (mean * self.weight + torch.rand(())).mean()
        if any(sample.img_id == BLACK for sample in data_samples):
            loss = loss + (self.weight - self.weight.detach()).sqrt().sum()  # 0, as is its square
        return {"loss": loss}


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Path:
    """Of a training of which one step is skipped."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images, boxes = [], []
    for index in range(8):
        cv2.imwrite(str(root / f"{index}.jpg"), random.integers(0, 255, (8, 8, 3), np.uint8))
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 8, "width": 8})
        box = {"id": index, "image_id": index, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
        boxes.append({**box, "iscrowd": 0})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (root / "a.json").write_text(json.dumps(content))
    (root / "config.py").write_text(CONFIG.replace("ROOT", repr(str(root))))
    cfg = Config.fromfile(root / "config.py")
    cfg.work_dir, cfg.experiment_name = str(root / "work"), str(root)
    cfg.default_hooks = {"checkpoint": None}
    build_runner(cfg, ("train",)).train()
    (path,) = (root / "work").glob("not_finite/iter_*.json")
    return path


def test_the_same_images_and_random_numbers_give_the_same_loss(record, capsys):
    content = read_record(record)
    (batch,) = content["batches"]
    assert cli.main(["replay", str(record)]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"iteration {content['iteration']}, rank 0: loss ")
    assert "; not finite: gradients of 1 of 1 parameters (weight); images " in line
    assert f"/{BLACK}.jpg" in line
    assert f"loss {batch['losses']['loss']:.4g};" in line


def test_other_weights_and_other_images(record, tmp_path):
    content = read_record(record)
    (batch,) = content["batches"]
    torch.save({"weight": torch.zeros(1)}, tmp_path / "zero.pth")
    ((line, finite),) = replay(content, str(tmp_path / "zero.pth"))
    assert not finite
    loss = float(line.split("loss ")[1].split(";")[0])
    assert 0 <= loss < 1  # the random part alone
    batch["images"] = [image for image in batch["images"] if image["img_id"] != BLACK]
    ((line, finite),) = replay(content)
    assert finite
    assert "; all are finite; images" in line
    batch["images"][0]["img_path"] = "gone.jpg"
    with pytest.raises(DataError, match=r"gone\.jpg.* is not in the training set of"):
        next(replay(content))


@pytest.mark.parametrize("text", [None, "no JSON", "[]", "{}"])
def test_what_is_no_record_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json"):
        read_record(tmp_path / "a.json")
