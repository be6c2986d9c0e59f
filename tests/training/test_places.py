"""Samples are drawn by their places: whoever loads them, and from wherever on."""

import random

import numpy as np
import pytest
import torch
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import TRANSFORMS
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler, pseudo_collate
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from mmconvnext.training.places import place_batches, seed_all


class Drawn(BaseDataset):
    """Images with the numbers that are drawn for them, by each of the generators."""

    def load_data_list(self):
        return [{"width": 1 + i % 3, "height": 2} for i in range(11)]

    def prepare_data(self, index):
        numbers = [random.random(), np.random.rand(), float(torch.rand(1))]
        if numbers[0] < 0.2:
            return None  # another image is drawn
        return {"index": index, "numbers": numbers}


class Neighbour:
    def get_indexes(self, dataset):
        return random.randrange(len(dataset))

    def __call__(self, results):
        return {**results, "numbers": results["numbers"] + results["mix_results"][0]["numbers"]}


@pytest.fixture
def mixed():
    TRANSFORMS.register_module(module=Neighbour, force=True)
    yield MultiImageMixDataset(Drawn(), [{"type": "Neighbour"}])
    TRANSFORMS.module_dict.pop("Neighbour")


SAMPLERS = {
    "default": lambda data: BatchSampler(DefaultSampler(data, seed=1), 2, False),
    "infinite": lambda data: BatchSampler(InfiniteSampler(data, seed=1), 2, False),
    "of torch": lambda data: BatchSampler(RandomSampler(data), 2, False),
    "by aspect ratio": lambda data: AspectRatioBatchSampler(DefaultSampler(data, seed=1), 2),
}


def loaded(dataset, sampler: str, place=(0, 0, 0), workers: int = 0) -> list[dict]:
    """The first ten batches from a place (seed, pass, batch) on."""
    batches = SAMPLERS[sampler](dataset)
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=pseudo_collate
    )
    place_batches(loader)
    assert list(loader) == []
    loader.batch_sampler.start = place
    return [batch for _, batch in zip(range(10), loader, strict=False)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_loader_that_starts_later_loads_the_same_from_there_on(mixed, sampler):
    random.seed(1)
    whole = loaded(mixed, sampler)
    random.seed(2)
    for first, workers in ((3, 0), (1, 2)):
        found = loaded(mixed, sampler, (0, 0, first), workers)
        assert found[: 10 - first] == whole[first:][: len(found)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_data_are_shuffled_by_the_seed_and_in_each_pass(sampler):
    dataset = Drawn()

    def order(seed, number):
        dataset.__dict__.pop("__getitems__", None)
        loader = DataLoader(dataset, batch_sampler=SAMPLERS[sampler](dataset))
        place_batches(loader)
        loader.batch_sampler.start = (seed, number, 0)
        return [i for _, batch in zip(range(5), loader.batch_sampler, strict=False) for i in batch]

    first = order(1, 0)
    assert len({*first}) == 10
    assert first != sorted(first)
    assert order(1, 0) == first
    assert order(2, 0) != first
    if sampler != "infinite":
        assert order(1, 1) != first


def test_places_have_random_numbers_of_their_own():
    """No correlation between places that follow each other, nor a number twice."""
    drawn = []
    for place in range(2000):
        seed_all(0, 0, place)
        drawn.append((random.random(), np.random.rand(), float(torch.rand(1))))
    for numbers in np.array(drawn).T:
        assert len({*numbers}) > len(numbers) - 3  # torch.rand has 24 bits
        assert abs(numbers.mean() - 0.5) < 0.03
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.08
