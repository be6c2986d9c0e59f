"""Training steps of our backbone by one or several processes, which share the images of a step."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace

import numpy as np
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks.backbone import TOLERANCE, Task
from benchmarks.comparison import Candidate, Results, close_to, run
from benchmarks.peers import SEED, fill, ours, random_weights, widths_and_sides

LEARNING_RATE = 1e-4


class DataParallel:
    """The factory of a training, see :class:`benchmarks.comparison.Candidate`.

    What is timed is forward, backward, the mean of the gradients over the processes (gloo), and
    AdamW. The first process is the candidate's own, so its peak memory is that of one process.

    Args:
        arch: the variant of the backbone.
        batch: images of a step, in all processes together.
        side: of the square images, in pixels.
        processes: how many there are; ``batch`` is a multiple of it.
        threads: of each.
        rank: which of the processes this is; the first starts the others.
        store: the file by which they find each other.
    """

    def __init__(
        self,
        arch: str,
        batch: int,
        side: int,
        processes: int,
        threads: int,
        rank: int = 0,
        store: str = "",
    ):
        torch.set_num_threads(threads)
        self._layout = {"processes": processes, "threads": threads, "images": batch}
        if processes > 1:
            if rank == 0:
                self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
                store = os.path.join(self._folder.name, "store")
                context = multiprocessing.get_context("spawn")
                for other in range(1, processes):  # as daemons, they end with this process
                    arguments = (arch, batch, side, processes, threads, other, store)
                    context.Process(target=_follow, args=arguments, daemon=True).start()
            _join(store, rank, processes)
        spec, shape = Task(arch).resolve(), (side, side)
        self._backbone = self._model = ours(spec).train()
        fill(self._backbone, random_weights(spec))
        self._optimizer = torch.optim.AdamW(self._backbone.parameters(), lr=LEARNING_RATE)
        if processes > 1:
            self._model = DistributedDataParallel(self._backbone, gradient_as_bucket_view=True)
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randn(batch, 3, *shape, generator=generator)
        self._images = images.chunk(processes)[rank].clone()
        self._targets = [
            torch.randn(width, *sides, generator=generator)
            for width, sides in widths_and_sides(spec, shape)
        ]

    def run(self) -> None:
        """Make one step in all processes."""
        if self._layout["processes"] > 1:
            distributed.barrier()  # nobody begins before the first process
        self._optimizer.zero_grad()
        pairs = zip(self._model(self._images), self._targets, strict=True)
        sum((x * target).mean() for x, target in pairs).backward()
        self._optimizer.step()

    def check(self) -> dict[str, np.ndarray]:
        """Make one step, and return the gradients of the whole batch."""
        self.run()
        named = self._backbone.named_parameters()
        return {name: param.grad.numpy().copy() for name, param in named}

    def facts(self) -> dict[str, float]:
        """Return processes, threads of each, and the images of a step."""
        return self._layout


def _follow(*arguments: object) -> None:
    training = DataParallel(*arguments)
    while True:
        training.run()


def _join(store: str, rank: int, processes: int) -> None:
    if sys.platform == "linux":  # the host's name need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    method = f"file://{store}"
    distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=processes)


def share_work(arch: str, batch: int, side: int, **options: int) -> Results:
    """Let training steps in one and two processes alternate, once their gradients are equal.

    Args:
        arch: the variant of the backbone.
        batch: images of a step.
        side: of the square images, in pixels.
        options: of :func:`benchmarks.comparison.run`; ``threads``, at least 2, are those of one
            process that uses all, and of two together.

    Returns:
        With the facts ``images_per_second``, and ``efficiency`` of each thread beside one process
        with half of them.
    """
    half = options["threads"] // 2
    candidates = []
    for processes, threads in ((1, half), (1, 2 * half), (2, half)):
        name = (
            f"{processes} process{'es' * (processes > 1)} x {threads} thread{'s' * (threads > 1)}"
        )
        layout = {"processes": processes, "threads": threads}
        work = {"arch": arch, "batch": batch, "side": side, **layout}
        candidates.append(Candidate(name, f"{__name__}:DataParallel", work))
    title = f"ConvNeXt {arch}, training steps, {batch} images of {side}x{side}, gloo, cpu"
    check = close_to(TOLERANCE, lambda _: "gradients")
    results = run(candidates, check=check, title=title, **options)
    used = {name: f["processes"] * f["threads"] for name, f in results.facts.items()}
    for name, facts in results.facts.items():
        facts["images_per_second"] = facts["images"] / results.median_seconds(name)
        speed_up = 1 / results.median_ratio(name)
        facts["efficiency"] = speed_up * used[results.ours] / used[name]
        if facts["processes"] > 1:  # to others, its own second process is another's
            timings = results.timings[name]
            timings[:] = [replace(timing, others_seconds=None) for timing in timings]
    return results
