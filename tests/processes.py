"""Processes that are forked where the libraries are imported already."""

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch

FORKING = multiprocessing.get_context("forkserver")
# mmconvnext comes before the mmdet that needs mmcv.ops
FORKING.set_forkserver_preload(["mmconvnext", "mmdet.apis", "mmconvnext.engine.runner"])


def in_two_processes(function: Callable, folder: Path, *arguments: object) -> None:
    """Call ``function(rank, folder, *arguments)`` in both of a group; an error in one is raised."""
    torch.multiprocessing.start_processes(
        _join, (function, folder, *arguments), nprocs=2, start_method="forkserver"
    )


def _join(rank: int, function: Callable, folder: Path, *arguments: object) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    function(rank, folder, *arguments)
    torch.distributed.destroy_process_group()
