"""Training steps on trial, in a process of their own (``--auto``): how long, how much memory.

``python -m mmconvnext.engine.trial CONFIG END BYTES`` prints a line of JSON for each batch size.
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from mmconvnext.engine.runner import build_runner
from mmconvnext.errors import UserError

SAMPLES = 64  # images that go through the pipeline, at most
LOADING_SHARE = 0.15  # of the time, for them
STEPS = 32  # with batches of a size, at most
STEPS_SHARE = 0.3  # of the time that is left, for them
LEAST_GAIN = 1.05  # in images a second, for which a batch is made larger


@dataclass
class Trial:
    """What a training step with a batch of the largest images took.

    Attributes:
        batch_size: images of the step.
        seconds: forward and backward pass and the optimizer's step.
        memory: bytes at the most, of the process or of the GPU.
        loading: seconds that one image takes in the pipeline.
        worker_memory: bytes that a process that loads images takes at the most.
        images: of the training set.
        finite: whether all losses were numbers.
    """

    batch_size: int
    seconds: float
    memory: int
    loading: float
    worker_memory: int
    images: int
    finite: bool


def run_trials(cfg: Config, end: float, limit: int) -> Iterator[Trial]:
    """Take steps with 1, 2, 4, ... images, as long as that pays and there is time and memory.

    Args:
        cfg: of a training, complete; with at most as many images in a batch as its own
            ``batch_size``.
        end: seconds since the epoch; the next batch size is not tried if it would not end by then.
        limit: bytes; nor if it would need more than this.
    """
    most = cfg.train_dataloader.batch_size
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    # Gradients that are accumulated lie beside the next step's activations.
    cfg.optim_wrapper.accumulative_counts = 2
    runner = build_runner(cfg, ("train",))
    resident = _status("VmRSS")
    loader = runner.train_dataloader
    samples = Samples(loader, cfg.train_dataloader, LOADING_SHARE * (end - time.time()))
    worker_memory = max(_status("VmRSS") - resident, 0)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.call_hook("before_run")  # an EMAHook copies the model
    runner.model.train()
    before = Trial(0, math.inf, 0, 0.0, 0, 0, True)
    size = 1
    while size <= min(most, samples.images):
        _step(runner, samples.small())
        if not before.batch_size:
            before.memory = _peak_memory()
        seconds, finite = _steps(runner, samples, size, end)
        facts = (samples.loading, worker_memory, samples.images, finite)
        trial = Trial(size, seconds, _peak_memory(), *facts)
        yield trial
        an_image = (trial.memory - before.memory) / (size - before.batch_size)
        slower = before.batch_size / before.seconds * LEAST_GAIN > size / seconds
        # twice the images take less than three times as long, the step before them included
        late = time.time() + 3 * seconds > end
        if slower or late or trial.memory + an_image * size > limit:
            return
        before, size = trial, 2 * size


def _steps(runner: Runner, samples: Samples, size: int, end: float) -> tuple[float, bool]:
    """Take a step with the largest batch and some with others; return what one of them gives.

    What is freed leaves gaps in the heap, that batches of other shapes do not fill: the memory of a
    process grows in the first steps.
    """
    stop = time.time() + STEPS_SHARE * (end - time.time())
    taken = [_step(runner, samples.largest_batch(size))]
    for data in islice(samples.batches(size), STEPS):
        if time.time() + taken[-1][0] > stop:
            break
        taken.append(_step(runner, data))
    return statistics.median(seconds for seconds, _ in taken), all(finite for _, finite in taken)


def _step(runner: Runner, data: Mapping[str, Any]) -> tuple[float, bool]:
    """Take a step; return its seconds and whether the losses are finite."""
    started = time.monotonic()
    losses = runner.model.train_step(data, runner.optim_wrapper)
    finite = all(bool(torch.isfinite(value).all()) for value in losses.values())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - started, finite


class Samples:
    """Images of a training set after its pipeline, and the largest batches that they can make.

    Args:
        loader: of the training.
        settings: the loader's, in the config.
        seconds: when to stop loading; one image is loaded in any case.
    """

    def __init__(self, loader: DataLoader, settings: Mapping[str, Any], seconds: float) -> None:
        self._loader, self._settings = loader, settings
        self.images = len(loader.dataset)
        started = time.monotonic()
        shapes: dict[bool, list[int]] = {}
        apart = isinstance(loader.batch_sampler, AspectRatioBatchSampler)
        indices = random.Random(0).sample(range(self.images), min(SAMPLES, self.images))
        self._most_objects = self._largest = None
        for count, index in enumerate(indices, 1):  # noqa: B007 (used below)
            item = loader.dataset[index]
            height, width = item["inputs"].shape[-2:]
            wide = apart and _is_wide(loader.dataset, index)
            shapes[wide] = [*map(max, shapes.get(wide, (0, 0)), (height, width))]
            self._most_objects = max(self._most_objects or item, item, key=_objects)
            self._largest = max(self._largest or item, item, key=_area)
            if time.monotonic() - started > seconds:
                break
        self.loading = (time.monotonic() - started) / count
        # Batches are filled up to their largest height and their largest width.
        self._shape = max(shapes.values(), key=math.prod)

    def small(self) -> dict[str, Any]:
        """A batch of one image of 64 x 64 pixels."""
        item = {**self._most_objects, "inputs": torch.zeros(3, 64, 64, dtype=torch.uint8)}
        sample = item["data_samples"].clone()
        sample.gt_instances = sample.gt_instances[:0]
        sample.set_metainfo({"img_shape": (64, 64)})
        return pseudo_collate([{**item, "data_samples": sample}])

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """Batches as the training has them."""
        settings = {**self._settings, "batch_size": size, "dataset": self._loader.dataset}
        yield from Runner.build_dataloader(settings, seed=0)

    def largest_batch(self, size: int) -> dict[str, Any]:
        """A batch of the largest shape, with the image that has the most objects."""
        shape = self._shape if size > 1 else self._largest["inputs"].shape[-2:]
        return pseudo_collate([_filled_up(self._most_objects, shape) for _ in range(size)])


def _is_wide(dataset: Dataset, index: int) -> bool:
    info = dataset.get_data_info(index)
    return info["width"] >= info["height"]


def _objects(item: Mapping[str, Any]) -> int:
    return len(item["data_samples"].gt_instances)


def _area(item: Mapping[str, Any]) -> int:
    return math.prod(item["inputs"].shape[-2:])


def _filled_up(item: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """An image with zeros around it, which is what the data preprocessor does with a batch."""
    height, width = item["inputs"].shape[-2:]
    below, right = max(shape[0] - height, 0), max(shape[1] - width, 0)
    return {
        "inputs": pad(item["inputs"], (0, right, 0, below)),
        "data_samples": item["data_samples"].clone(),
    }


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return _status("VmHWM")


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(re.search(rf"{key}:\s*(\d+) kB", text)[1]) * 1024


def main(path: str, seconds: str, limit: str) -> None:
    """Run the trials that the command line asks for."""
    try:
        for trial in run_trials(Config.fromfile(path), float(seconds), int(limit)):
            print(json.dumps(asdict(trial)), flush=True)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
