"""What a config written for GPUs needs on a machine without one."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from torch import nn

from mmconvnext.engine.config import replace_types
from mmconvnext.errors import UserError

# For each launcher: rank, number of processes and local rank in the variables that it sets.
RANK_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}

# What gloo and NCCL say of a process that is not there, or too late.
LOST = re.compile(
    r"Timed out waiting \d+ms|Connection (?:closed|reset) by peer|Connection refused|"
    r"Watchdog caught collective operation timeout|Broken pipe|[Ss]ocket [Tt]imeout"
)


def adapt_to_device(cfg: Config) -> list[str]:
    """Replace what only works on an accelerator where there is none; return lines for the log."""
    if has_accelerator():
        return []
    notes = []
    if (cfg.get("optim_wrapper") or {}).get("type") == "AmpOptimWrapper":
        cfg.optim_wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            cfg.optim_wrapper.pop(key, None)
        notes.append("no GPU: AmpOptimWrapper -> OptimWrapper, training in float32")
    # MMEngine's revert_sync_batchnorm comes too late: MMSyncBN cannot be built without a launcher.
    count = replace_types(cfg, ("SyncBN", "MMSyncBN"), "BN")
    if count:
        notes.append(f"no GPU: SyncBN -> BN in {count} places, statistics are those of one process")
    if cfg.pop("sync_bn", None) and cfg.get("launcher", "none") != "none":
        notes.append("no GPU: sync_bn is left out, statistics are those of one process")
    if (cfg.get("model") or {}).get("type") == "RTMDet" and cfg.get("launcher", "none") != "none":
        cfg.model.use_syncbn = False  # it makes every BN one by default
        notes.append("no GPU: RTMDet's use_syncbn is False, statistics are those of one process")
    for split in ("train", "val", "test"):
        if (cfg.get(f"{split}_dataloader") or {}).get("pin_memory"):
            cfg[f"{split}_dataloader"].pin_memory = False
    if cfg.get("launcher", "none") != "none":
        # MMEngine's default wrapper names a GPU, which DDP refuses for a model on the CPU.
        cfg.setdefault("model_wrapper_cfg", {"type": "MMDistributedDataParallel"})
        cfg.model_wrapper_cfg.update(
            device_ids=None,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
            broadcast_buffers=False,
        )
        notes.append("no GPU: processes communicate through gloo")
    return notes


def convolutions_to_channels_last(model: nn.Module) -> None:
    """Lay the weights of convolutions out in channels_last if the device is the CPU.

    A convolution then gives channels_last whatever it gets: the faster layout there, and that of
    ConvNeXt's feature maps; RoI extractors give the other. Names, shapes and values stay.
    """
    if get_device() != "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)


def check_launcher(launcher: str) -> None:
    """Check that processes were started by what ``--launcher`` says, or raise UserError."""
    if launcher == "none":
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, and without --launcher "
                "pytorch each of them would do the whole work alone: add it"
            )
        return
    missing = [name for name in RANK_VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher}: the environment variable {missing[0]} is not set; start the "
            "processes with torchrun (pytorch), srun (slurm) or mpirun (mpi)"
        )


def init_distributed_on_cpu(launcher: str, env_cfg: Mapping | None = None) -> None:
    """Start the gloo process group where MMEngine would ask for a GPU.

    The launcher's environment variables must be set, see :func:`check_launcher`.

    Args:
        launcher: what started the processes.
        env_cfg: of the config; ``dist_cfg.timeout`` is for how many seconds processes wait for
            each other, half an hour where it is left out.
    """
    if launcher == "none" or has_accelerator() or is_distributed():
        return
    for target, source in zip(RANK_VARIABLES["pytorch"], RANK_VARIABLES[launcher], strict=True):
        os.environ[target] = os.environ[source]
    if launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostname", os.environ["SLURM_NODELIST"]]
        os.environ["MASTER_ADDR"] = subprocess.check_output(command, text=True).split()[0]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    seconds = ((env_cfg or {}).get("dist_cfg") or {}).get("timeout")
    dist.init_process_group("gloo", timeout=seconds and timedelta(seconds=seconds))


@contextmanager
def lost_processes() -> Iterator[None]:
    """Raise UserError where a process waited in vain for another one."""
    try:
        yield
    except RuntimeError as error:
        reason = LOST.search(str(error))
        if not reason or not is_distributed():
            raise
        raise UserError(
            f"process {dist.get_rank()} of {dist.get_world_size()} has lost another one, which "
            f"ended, stands still or cannot be reached ({reason[0]}); the first error of the "
            "others says why. --resume goes on from the last checkpoint, and torchrun's "
            "--max-restarts N does so by itself; how long processes wait: "
            "env_cfg.dist_cfg.timeout, in seconds"
        ) from error


def has_accelerator() -> bool:
    """Whether there is a device that trains in mixed precision."""
    # Apple's MPS lacks mixed precision, synchronised statistics and communication, as the CPU does.
    return get_device() not in ("cpu", "mps")
