"""Random numbers by their places in a training.

Whatever draws some is seeded from where it is: a sample from the pass through the data, its batch
and its position there, a step from its iteration and its process. So each draws the same whether
the process that does it has done those before or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import blake2b
from itertools import islice

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler


def seed_all(*place: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers from numbers that name a place."""
    seed = int.from_bytes(blake2b(repr(place).encode(), digest_size=4).digest(), "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a traceback without CUDA
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class PlacedBatch(list):
    """The indices of a batch, and in ``places`` what each of its samples is seeded from."""

    places: list[tuple[int, ...]]


def load_placed(dataset: Dataset, batch: PlacedBatch) -> list:
    """Load a batch; all that a data set draws for a sample, other images too, is of its place.

    MMDetection's samples get it as ``seed``.
    """
    samples = []
    for place, index in zip(batch.places, batch, strict=True):
        seed_all(*place)
        sample = dataset[index]
        if isinstance(sample, Mapping) and "data_samples" in sample:
            sample["data_samples"].set_metainfo({"seed": place})
        samples.append(sample)
    return samples


class PlacedBatchSampler(Sampler):
    """The batches of another batch sampler with their places, from any of them on.

    A sample's position is that in the batch of all processes, which MMEngine's samplers deal out in
    turns: so it is the same for one process and for several that make a batch of the same size.

    Args:
        batches: with ``sampler`` and ``batch_size``, as all batch samplers of MMDetection.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches
        self.sampler, self.batch_size = batches.sampler, batches.batch_size  # MMEngine asks for
        self.start: tuple[int, int, int] | None = None  # seed, pass and batch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[PlacedBatch]:
        if self.start is None:  # MMEngine's loop by iteration asks before it has resumed
            return
        seed, number, first = self.start
        seed_all(seed, number)  # for samplers without a seed of their own
        self.sampler.seed = seed  # that of a checkpoint is known after the sampler was built
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(number)
        rank, processes = get_dist_info()
        for batch, indices in islice(enumerate(self.batches), first, None):
            placed = PlacedBatch(indices)
            placed.places = [
                (seed, number, batch, k * processes + rank) for k in range(len(placed))
            ]
            yield placed


def place_batches(loader: DataLoader) -> None:
    """Let a data loader, which has not loaded anything yet, load batches at their places."""
    # a DataLoader refuses new ones, as it may have begun with the old ones
    vars(loader)["batch_sampler"] = PlacedBatchSampler(loader.batch_sampler)
    if hasattr(loader.dataset, "__dict__"):  # a list has no transforms that would be seeded
        loader.dataset.__getitems__ = partial(load_placed, loader.dataset)
