import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from torch import nn

from mmconvnext.engine import device
from mmconvnext.errors import UserError


def gpu_config(**extra) -> Config:
    return Config(
        {
            "model": {"head": [{"norm_cfg": {"type": "SyncBN"}}, {"norm_cfg": {"type": "SyncBN"}}]},
            "optim_wrapper": {"type": "AmpOptimWrapper", "loss_scale": "dynamic", "optimizer": {}},
            "train_dataloader": {"pin_memory": True},
            "val_dataloader": None,
            **extra,
        }
    )


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_without_an_accelerator_each_change_is_one_line(monkeypatch, kind):
    monkeypatch.setattr(device, "get_device", lambda: kind)
    cfg = gpu_config()
    amp, norms = device.adapt_to_device(cfg)
    assert "float32" in amp
    assert "SyncBN -> BN in 2 places" in norms
    assert cfg.optim_wrapper == {"type": "OptimWrapper", "optimizer": {}}
    assert [h.norm_cfg.type for h in cfg.model.head] == ["BN", "BN"]
    assert not cfg.train_dataloader.pin_memory
    assert "model_wrapper_cfg" not in cfg
    assert device.adapt_to_device(cfg) == []


def test_on_the_cpu_processes_talk_through_gloo(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: "cpu")
    cfg = gpu_config(launcher="pytorch", find_unused_parameters=True)
    assert "gloo" in device.adapt_to_device(cfg)[-1]
    options = {"device_ids": None, "find_unused_parameters": True, "broadcast_buffers": False}
    assert cfg.model_wrapper_cfg == {"type": "MMDistributedDataParallel", **options}


@pytest.mark.parametrize("kind", ["cuda", "npu", "mlu", "musa"])
def test_with_an_accelerator_nothing_changes(monkeypatch, kind):
    monkeypatch.setattr(device, "get_device", lambda: kind)
    cfg = gpu_config(launcher="pytorch")
    assert device.adapt_to_device(cfg) == []
    assert cfg.to_dict() == gpu_config(launcher="pytorch").to_dict()


def test_rtmdet_makes_no_sync_bn_of_its_own_in_several_processes(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: "cpu")
    cfg = Config({"model": {"type": "RTMDet"}, "launcher": "pytorch"})
    assert "use_syncbn is False" in " ".join(device.adapt_to_device(cfg))
    assert cfg.model.use_syncbn is False


@pytest.mark.parametrize("launcher", device.RANK_VARIABLES)
def test_a_launcher_that_did_not_launch_is_named(launcher, monkeypatch):
    for name in device.RANK_VARIABLES[launcher]:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"--launcher {launcher}: .* is not set"):
        device.check_launcher(launcher)


def test_torchrun_without_its_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    device.check_launcher("none")
    device.init_distributed_on_cpu("none")
    assert not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"started 2 processes.*--launcher pytorch"):
        device.check_launcher("none")


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_launchers_of_clusters_start_the_group(launcher, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "get_device", lambda: "cpu")
    for name in device.RANK_VARIABLES["pytorch"]:
        monkeypatch.setenv(name, "")
    names = (*device.RANK_VARIABLES[launcher], "MASTER_ADDR", "MASTER_PORT")
    for name, value in zip(names, ("0", "1", "0", "127.0.0.1", "29555"), strict=True):
        monkeypatch.setenv(name, value)
    device.init_distributed_on_cpu(launcher)
    try:
        assert dist.get_backend() == "gloo"
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    finally:
        dist.destroy_process_group()


def test_slurm_says_which_machine_is_the_first(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: "cpu")
    for name, value in zip(device.RANK_VARIABLES["slurm"], "012", strict=True):
        monkeypatch.setenv(name, value)
    for name in (*device.RANK_VARIABLES["pytorch"], "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("SLURM_NODELIST", "node[3-4]")
    asked, started = [], []

    def answer(command, text):
        asked.append(command)
        return "node3\nnode4\n"

    monkeypatch.setattr(device.subprocess, "check_output", answer)
    monkeypatch.setattr(device.dist, "init_process_group", lambda *a, **k: started.append((a, k)))
    device.init_distributed_on_cpu("slurm", {"dist_cfg": {"timeout": 60}})
    assert asked == [["scontrol", "show", "hostname", "node[3-4]"]]
    assert os.environ["MASTER_ADDR"] == "node3"
    assert started == [(("gloo",), {"timeout": timedelta(seconds=60)})]


@pytest.mark.parametrize("kind", ["cpu", "mps", "cuda"])
def test_convolutions_give_channels_last_on_the_cpu(monkeypatch, kind):
    monkeypatch.setattr(device, "get_device", lambda: kind)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.ReLU())
    x = torch.rand(2, 4, 9, 9)
    expected, state = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    device.convolutions_to_channels_last(model)
    actual = model(x)
    torch.testing.assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=torch.channels_last) == (kind == "cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
