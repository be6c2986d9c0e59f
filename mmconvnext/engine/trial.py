"""Training steps on trial, in a process of their own (``--auto``): how long, how much memory.

``python -m mmconvnext.engine.trial CONFIG END BYTES`` prints a line of JSON for each batch size.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
LOADING_S = 4.0  # for them
BUSY_S = 2.0  # a step of this long keeps all cores busy
SAVING_S = 3.0  # a checkpoint takes, at most
SETTLING = 1.3  # by which the memory of a process grew after the first step, at most
SETTLING_SLOW = 1.08  # the same of steps of many seconds, about; there is no time to wait for it
# As measured with four detectors: what there is when a checkpoint is saved, of a step's memory and
# in the checkpoint's own sizes. MMEngine puts it together in memory.
SAVING = (0.85, 2)
SETTLED = 12  # steps in which the memory grows no more
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

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.batch_size / self.seconds


def run_trials(cfg: Config, end: float, limit: int) -> Iterator[Trial]:
    """Take steps with 1, 2, 4, ... images, as long as that pays; then more with the best of them.

    Args:
        cfg: of a training, complete; its ``batch_size`` is the largest to try.
        end: seconds since the epoch; what would not end by then is not tried.
        limit: bytes; nor what would need more.

    Yields:
        The trials, at last that of the batch size that is chosen: the one with most images a
        second that keeps to the limit, with the memory that a longer training takes.
    """
    most = cfg.train_dataloader.batch_size
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    # Gradients that are accumulated lie beside the next step's activations.
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.exact_resume = False  # its batches are chosen here
    runner = build_runner(cfg, ("train",))
    resident = _status("VmRSS")
    samples = Samples(runner.train_dataloader, cfg.train_dataloader, LOADING_S)
    facts = (samples.loading, max(_status("VmRSS") - resident, 0), samples.images)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.call_hook("before_run")  # an EMAHook copies the model
    # which RuntimeInfoHook knows in a training; TOOD's head and YOLOX's images ask for them
    runner.message_hub.update_info_dict({"epoch": 0, "iter": 0})
    runner.model.train()
    _step(runner, samples.small())  # the optimizer's state; a process is slow at first
    best = None
    for trial in _growing(runner, samples, facts, min(most, samples.images), end, limit):
        yield trial
        if best is None or (trial.memory * SETTLING <= limit and trial.speed > best.speed):
            best = trial
    while best.memory <= limit:
        best = _settled(runner, samples, best, end)
        yield best
        if best.memory <= limit or best.batch_size == 1:
            return
        best = replace(best, batch_size=best.batch_size // 2, memory=0)


def _growing(
    runner: Runner, samples: Samples, facts: tuple, most: int, end: float, limit: int
) -> Iterator[Trial]:
    size, before, speed = 1, _peak_memory(), 0.0
    while size <= most:
        _step(runner, samples.small())
        seconds, finite = _step(runner, samples.largest_batch(size))
        if 3 * BUSY_S > seconds > BUSY_S and size == 1:  # the first one may have taken longer
            seconds, finite = _step(runner, samples.largest_batch(size))
        trial = Trial(size, seconds, _peak_memory(), *facts, finite)
        yield trial
        an_image = (trial.memory - before) / max(size // 2, 1)
        busy = seconds > BUSY_S and not torch.cuda.is_available()
        late = time.time() + 5 * seconds > end
        if busy or late or trial.speed < LEAST_GAIN * speed:
            return
        if (trial.memory + an_image * size) * SETTLING > limit:
            return
        before, speed, size = trial.memory, trial.speed, 2 * size


def _settled(runner: Runner, samples: Samples, trial: Trial, end: float) -> Trial:
    """Take steps as the training has them until the memory grows no more, or the time is over.

    What is freed leaves gaps in the heap that batches of other shapes do not fill: the memory of a
    process grows in the first steps, and a checkpoint is put together beside it.
    """
    if trial.seconds > BUSY_S and time.time() + trial.seconds + SAVING_S > end:
        return replace(trial, memory=_memory(runner, trial, is_settled=False))
    _reset_peak_memory()
    taken, is_settled = [_step(runner, samples.largest_batch(trial.batch_size))], False
    peaks = [_peak_memory()]
    for data in samples.batches(trial.batch_size):
        if len(peaks) > SETTLED and peaks[-1] == peaks[-SETTLED]:
            is_settled = True
            break
        if time.time() + taken[0][0] + SAVING_S > end:
            break
        taken.append(_step(runner, data))
        peaks.append(_peak_memory())
    seconds = statistics.median(seconds for seconds, _ in taken)
    finite = all(finite for _, finite in taken)
    memory = _memory(runner, trial, is_settled)
    return replace(trial, seconds=seconds, memory=memory, finite=finite)


def _memory(runner: Runner, trial: Trial, is_settled: bool) -> int:
    """Bytes at the most, with a checkpoint that is saved; expected of later steps if it grows."""
    size = _save(runner)
    expected = max(trial.memory * SETTLING_SLOW, trial.memory * SAVING[0] + size * SAVING[1])
    return max(0 if is_settled else int(expected), _peak_memory())


def _save(runner: Runner) -> int:
    """Save a checkpoint, which MMEngine puts together in memory; give its bytes."""
    runner.save_checkpoint(runner.work_dir, "trial.pth", by_epoch=False, save_param_scheduler=False)
    return Path(runner.work_dir, "trial.pth").stat().st_size


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
            self._largest = max(self._largest or item, item, key=_area_and_objects)
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
        """The largest image, or a batch of the largest shape and the image with most objects."""
        if size == 1:
            return pseudo_collate([_filled_up(self._largest, (0, 0))])
        return pseudo_collate([_filled_up(self._most_objects, self._shape) for _ in range(size)])


def _is_wide(dataset: Dataset, index: int) -> bool:
    info = dataset.get_data_info(index)
    return info["width"] >= info["height"]


def _objects(item: Mapping[str, Any]) -> int:
    return len(item["data_samples"].gt_instances)


def _area_and_objects(item: Mapping[str, Any]) -> tuple[int, int]:
    """The order of images by area in steps of 5 %, then by objects."""
    return round(20 * math.log(math.prod(item["inputs"].shape[-2:]))), _objects(item)


def _filled_up(item: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """An image with zeros around it, which is what the data preprocessor does with a batch."""
    height, width = item["inputs"].shape[-2:]
    below, right = max(shape[0] - height, 0), max(shape[1] - width, 0)
    return {
        "inputs": pad(item["inputs"], (0, right, 0, below)),
        "data_samples": item["data_samples"].clone(),
    }


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


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
