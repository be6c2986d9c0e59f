"""Training steps of our backbone in one and several processes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.backbone import GRADIENT, Task
from benchmarks.peers import SEED, fill, ours, random_weights, widths_and_sides

LOOPBACK = "127.0.0.1"
LEARNING_RATE = 1e-4
STEP, GRADIENTS = range(2)  # what the first process tells the others to do


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
    """The factory of a training, see :class:`benchmarks.comparison.Candidate`.

    What is timed is a training step: forward, backward, the mean of the gradients over the
    processes (gloo, on this machine), and AdamW. The first process is the candidate's own, so its
    peak memory is that of one process.

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
        """Return the gradients of the whole batch, by the names of the parameters."""
        self._do(GRADIENTS)
        named = self._replica.module.named_parameters()
        return {f"{GRADIENT}{name}": param.grad.numpy().copy() for name, param in named}

    def facts(self) -> dict[str, float]:
        """Return the layout and the images of a step."""
        share = self._share
        return {"processes": share.processes, "threads": share.threads, "images": share.batch}

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
    """The backbone in one process, with its share of the batch; the group is there already."""

    def __init__(self, share: Share):
        torch.set_num_threads(share.threads)
        arch, shape = Task(share.arch).resolve(), (share.side, share.side)
        self.module = ours(arch).train()
        fill(self.module, random_weights(arch))
        self._model: nn.Module = self.module
        if share.processes > 1:
            self._model = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randn(share.batch, 3, *shape, generator=generator)
        self._images = images.chunk(share.processes)[share.rank].clone()
        self._targets = [
            torch.randn(width, *side, generator=generator)
            for width, side in widths_and_sides(arch, shape)
        ]
        self._optimizer = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE)

    def obey(self, command: int) -> None:
        """Compute the gradients of the whole batch, and in a ``STEP`` use them."""
        self._optimizer.zero_grad()
        pairs = zip(self._model(self._images), self._targets, strict=True)
        sum((x * target).mean() for x, target in pairs).backward()
        if command == STEP:
            self._optimizer.step()


def follow(share: Share, port: int) -> None:
    """Do in another process what the first one tells, by its store's port, until that ends."""
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
