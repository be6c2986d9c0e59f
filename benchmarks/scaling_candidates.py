"""Candidates of scaling: a detector that counts its work, and training in several processes."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.backbone_candidate import GRADIENT, SEED, fill, random_weights
from benchmarks.backbone_peers import OURS, PEERS
from benchmarks.detector_candidate import Detector
from mmconvnext.analysis.flops import count_flops
from mmconvnext.variants import resolve_arch

LOOPBACK = "127.0.0.1"
LEARNING_RATE = 1e-4
STEP, GRADIENTS = range(2)  # what the first process tells the others to do


class CountedDetector(Detector):
    """The factory of a detector that says how much work its images are."""

    def facts(self) -> dict[str, float]:
        """Return parameters, and the mean pixels (padded) and multiply-adds of an image."""
        shapes = [self._shape(index) for index in self._indices]
        costs = [count_flops(self._model, shape) for shape in shapes]
        return {
            "images": len(shapes),
            "pixels": sum(map(math.prod, shapes)) / len(shapes),
            "multiply_adds": sum(cost.flops for cost in costs) / len(costs),
            "parameters": costs[0].params,
        }

    def _shape(self, index: int) -> tuple[int, int]:
        batch = pseudo_collate([self._dataset[index]])
        height, width = self._model.data_preprocessor(batch)["inputs"].shape[-2:]
        return height, width


@dataclass(frozen=True)
class Share:
    """What one process of a training works on.

    Attributes:
        arch: the variant of the backbone.
        batch: images of a step, in all processes together.
        side: of the square images, in pixels.
        processes: how many there are; ``batch`` is a multiple of it.
        threads: of each.
        rank: which of the processes this is.
    """

    arch: str
    batch: int
    side: int
    processes: int
    threads: int
    rank: int = 0


class DataParallel:
    """The factory of the comparison of one and two processes, see `benchmarks.Candidate`.

    What is timed is a training step of our backbone: forward, backward, the mean of the gradients
    over the processes (gloo, on this machine), and AdamW. The first process is the candidate's
    own, so its peak memory is that of one process.

    Args:
        work: of :class:`Share`, without the rank.
    """

    def __init__(self, **work: Any):
        self._share = Share(**work)
        if self._share.processes > 1:
            self._start_others()
        self._replica = Replica(self._share)

    def run(self) -> None:
        """Make one step in all processes."""
        self._do(STEP)

    def check(self) -> dict[str, np.ndarray]:
        """Return the gradients of the whole batch."""
        self._do(GRADIENTS)
        return self._replica.named_gradients()

    def facts(self) -> dict[str, float]:
        """Return the layout, the images of a step, and the bytes of gradients."""
        return {
            "processes": self._share.processes,
            "threads": self._share.threads,
            "images": self._share.batch,
            "gradient_bytes": self._replica.gradient_bytes,
        }

    def _do(self, command: int) -> None:
        if self._share.processes > 1:
            distributed.broadcast(torch.tensor(command), src=0)
        self._replica.obey(command)

    def _start_others(self) -> None:
        """Start the other processes; as daemons, they end with this one."""
        store = distributed.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        for rank in range(1, self._share.processes):
            arguments = (replace(self._share, rank=rank), store.port)
            context.Process(target=follow, args=arguments, daemon=True).start()
        _join(store, self._share)


class Replica:
    """The backbone in one process, with its share of the batch; the group is there already.

    Args:
        share: what it works on.
    """

    def __init__(self, share: Share):
        torch.set_num_threads(share.threads)
        depths, widths = resolve_arch(share.arch)
        self._module = PEERS[OURS].build(depths, widths).train()
        fill(self._module, random_weights(depths, widths))
        self._model: nn.Module = self._module
        if share.processes > 1:
            self._model = DistributedDataParallel(self._module, gradient_as_bucket_view=True)
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randn(share.batch, 3, share.side, share.side, generator=generator)
        self._images = images.chunk(share.processes)[share.rank].clone()
        self._targets = [
            torch.randn(width, *[share.side // 2 ** (stage + 2)] * 2, generator=generator)
            for stage, width in enumerate(widths)
        ]
        self._optimizer = torch.optim.AdamW(self._module.parameters(), lr=LEARNING_RATE)

    @property
    def gradient_bytes(self) -> int:
        """How large the gradients are, which processes exchange in each step."""
        return sum(param.nbytes for param in self._module.parameters())

    def obey(self, command: int) -> None:
        """Compute the gradients of the whole batch, and in a ``STEP`` use them."""
        self._optimizer.zero_grad()
        maps = self._model(self._images)
        pairs = zip(maps, self._targets, strict=True)
        sum((x * target).mean() for x, target in pairs).backward()
        if command == STEP:
            self._optimizer.step()

    def named_gradients(self) -> dict[str, np.ndarray]:
        """The gradients, by the names of the parameters."""
        named = self._module.named_parameters()
        return {f"{GRADIENT}{name}": param.grad.numpy().copy() for name, param in named}


def follow(share: Share, port: int) -> None:
    """Do in another process what the first one tells, until that ends.

    Args:
        share: what this process works on.
        port: of the first process's store on the loopback address.
    """
    _join(distributed.TCPStore(LOOPBACK, port, is_master=False), share)
    replica = Replica(share)
    command = torch.tensor(STEP)
    while True:
        distributed.broadcast(command, src=0)
        replica.obey(int(command))


def _join(store: distributed.Store, share: Share) -> None:
    if sys.platform == "linux":  # the host's name need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", store=store, rank=share.rank, world_size=share.processes)
