"""Sharded training is that of distributed data parallel, and so are its checkpoints."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.distributed.tensor import DTensor

from mmconvnext.engine.runner import build_runner
from mmconvnext.errors import ConfigError
from mmconvnext.models.convnext import ConvNeXt
from mmconvnext.training.sharding import autocast_dtype, check_sharding, shard
from tests.training.processes import in_processes, tiny, train

EMA = [{"type": "EMAHook", "momentum": 0.1, "update_buffers": True}]


def in_each_process(folder: Path) -> dict:
    """Train the same with and without sharding, and resume the one from the other's checkpoint."""
    start = {"load_from": str(folder / "start.pth"), "custom_hooks": EMA}
    start |= {"train_cfg.val_begin": 1, "train_cfg.val_interval": 2}  # a step follows
    sharded = {**start, "shard": True, "model.backbone.with_cp": True}
    resumed = {**sharded, "resume": True, "load_from": str(folder / "plain" / "iter_2.pth")}
    return {
        "plain": train(tiny(folder, "plain", **start)),
        "sharded": train(tiny(folder, "sharded", **sharded)),
        "resumed": train(tiny(folder, "resumed", **resumed)),
        "mixed": mixed_precision(),
    }


def mixed_precision() -> tuple[float, list[torch.dtype], bool]:
    """How far features are off where blocks are gathered in bfloat16, and what gradients are."""
    torch.manual_seed(0)
    plain = ConvNeXt(arch={"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)})
    model = ConvNeXt(arch={"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)})
    model.load_state_dict(plain.state_dict())
    shard(model, torch.bfloat16)
    images = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, *_), (actual, *_) = plain(images), model(images)
    actual.float().sum().backward()
    largest = (actual - expected).abs().max() / expected.abs().max()
    gradients = [p.grad.dtype for p in model.stages[0].parameters() if p.grad is not None]
    return largest.item(), gradients, all(isinstance(p, DTensor) for p in model.parameters())


def prepare(folder: Path) -> Config:
    """The data and the weights to start from."""
    cfg = tiny(folder, "test")
    runner = build_runner(cfg, ("train", "val"))
    runner.model.init_weights()
    torch.save({"state_dict": runner.model.state_dict()}, folder / "start.pth")
    return cfg


@pytest.fixture
def trained(processes_folder, two_processes):
    return processes_folder, two_processes("test_sharding")


def test_losses_and_norms_of_gradients_are_those_of_data_parallel(trained):
    for came in trained[1]:
        assert len(came["plain"]) == 3
        torch.testing.assert_close(came["sharded"], came["plain"], rtol=1e-6, atol=1e-6)
    first, second = (came["plain"] for came in trained[1])
    assert first != second, "each process has images of its own"


def test_a_sharded_training_resumes_from_an_unsharded_one(trained):
    for came in trained[1]:
        torch.testing.assert_close(came["resumed"], came["plain"][2:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("iteration", [1, 3])
def test_checkpoints_are_those_of_data_parallel(trained, iteration):
    plain, sharded = (
        torch.load(trained[0] / name / f"iter_{iteration}.pth", weights_only=False)
        for name in ("plain", "sharded")
    )
    for key in ("state_dict", "ema_state_dict"):
        torch.testing.assert_close(sharded[key], plain[key], rtol=0, atol=2e-5)
    (groups, expected), (states, moments) = (
        [each["optimizer"][key] for each in (sharded, plain)] for key in ("param_groups", "state")
    )
    assert groups == expected
    assert len(groups) > 6  # of layer-wise decay
    torch.testing.assert_close(states, moments, rtol=1e-4, atol=1e-6)


def test_a_plain_test_reads_a_sharded_checkpoint(trained):
    cfg = tiny(trained[0], "test", shard=True, load_from=str(trained[0] / "sharded/iter_3.pth"))
    runner = build_runner(cfg, ("test",))
    runner.load_or_resume()
    expected = torch.load(cfg.load_from, weights_only=False)["state_dict"]
    torch.testing.assert_close(dict(runner.model.state_dict()), dict(expected), rtol=0, atol=0)


def test_blocks_are_gathered_in_the_type_of_mixed_precision(trained):
    for error, gradients, parted in (came["mixed"] for came in trained[1]):
        assert 0 < error < 0.02
        assert set(gradients) == {torch.float32}
        assert parted, "parts again after the backward pass"
    wrapper = {"type": "AmpOptimWrapper"}
    assert autocast_dtype(Config({"optim_wrapper": wrapper})) == torch.float16
    wrapper["dtype"] = "bfloat16"
    assert autocast_dtype(Config({"optim_wrapper": wrapper})) == torch.bfloat16
    assert autocast_dtype(Config({"optim_wrapper": {"type": "OptimWrapper"}})) is None


def test_what_cannot_be_sharded_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--shard.*this is one alone: start several"):
        build_runner(tiny(tmp_path, "one", shard=True), ("train", "val"))
    check_sharding(Config({"launcher": "none"}), trains=True)
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match="scale is a single number"):
        shard(model)


if __name__ == "__main__":  # python -m tests.training.test_sharding PROCESSES
    root = Path(tempfile.mkdtemp())
    prepare(root)
    for rank, each in enumerate(in_processes(in_each_process, root, int(sys.argv[1]))):
        for step, (a, b) in enumerate(zip(each["plain"], each["sharded"], strict=True), 1):
            print(f"process {rank}, step {step}: loss {a[0]:.7f} {b[0]:.7f}", end="")
            print(f", gradient {a[1]:.7f} {b[1]:.7f} (data parallel, sharded)")
