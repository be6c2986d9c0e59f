"""A run that mmengine saves is a run that mmengine resumes."""

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmconvnext.compat.checkpoint_io import read_checkpoint


class Points(Dataset):
    metainfo = {"classes": ("point",), "palette": [(1, 2, 3)]}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.full((2,), index / 4)}


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, mode="loss"):
        return {"loss": self.layer(x).square().mean()}


class NumpyInfo(Hook):
    """Leaves in the log what metrics leave there: numpy's numbers."""

    def after_train_epoch(self, runner):
        runner.message_hub.update_info("best", np.float64(0.25))
        runner.message_hub.update_scalar("val/ap", np.float64(0.5))


def make_runner(folder, epochs: int, **kwargs) -> Runner:
    return Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Points(),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=2,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2),
            dict(type="MultiStepLR", milestones=[1, 2]),
        ],
        custom_hooks=[NumpyInfo()],
        default_scope="mmengine",
        log_level="WARNING",
        experiment_name=f"resume_{epochs}",
        **kwargs,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    make_runner(folder, epochs=2).train()
    return str(folder / "epoch_2.pth")


def test_a_run_is_resumed_where_it_stopped(saved, tmp_path):
    runner = make_runner(tmp_path, epochs=3, resume=True, load_from=saved)
    before = read_checkpoint(saved)
    assert before["meta"]["dataset_meta"] == Points.metainfo
    assert before["message_hub"]["log_scalars"]["val/ap"].data[0].tolist() == [0.5, 0.5]
    assert set(before) >= {"state_dict", "optimizer", "param_schedulers", "message_hub", "meta"}
    runner.load_or_resume()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert torch.equal(runner.model.layer.weight, before["state_dict"]["layer.weight"])
    runner.train()
    assert runner.iter == 6
    losses = runner.message_hub.get_scalar("train/loss")
    assert len(losses.data[0]) == 6
    assert losses.mean() == pytest.approx(losses.data[0].mean())
    assert losses.min() <= losses.current() <= losses.max()
    assert runner.message_hub.get_info("best") == 0.25
