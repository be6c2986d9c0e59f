"""Trainings that go on after an interruption as if there had been none.

Nothing random is saved: all that is drawn is of its place, see :mod:`mmconvnext.training.places`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count
from typing import Any

import numpy as np
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from mmengine.dist import get_dist_info, get_rank
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mmconvnext.errors import ConfigError
from mmconvnext.training.checkpoints import of_main_process
from mmconvnext.training.places import place_batches, seed_all


class ExactLoop:
    """What MMEngine's loops lack to start at the place of a checkpoint.

    Attributes:
        passes: that went through all of the data.
        batch: of this pass, the next one.
        validates: whether the validation after the last step, if one is due, has not ended.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **settings: Any) -> None:
        if isinstance(dataloader, Mapping):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        place_batches(dataloader)
        super().__init__(runner, dataloader, **settings)
        if not len(dataloader):
            raise ConfigError("train_dataloader makes no batch: too few images for drop_last=True")
        self.passes = self.batch = 0
        self.validates = self._validates_first = False

    @property
    def place(self) -> dict[str, int]:
        """Where the training is, for a checkpoint."""
        images = int(np.sum(self.dataloader.batch_sampler.batch_size)) * get_dist_info()[1]
        return {
            "pass": self.passes,
            "batch": self.batch,
            "validates": self.validates,
            "images": images,  # of a step
        }

    def go_to(self, place: Mapping[str, int]) -> None:
        """Go on from a place; with other batches, from about as many images on."""
        self.passes, self._validates_first = place["pass"], place["validates"]
        self.batch = place["batch"] * place["images"] // self.place["images"]

    def batches(self) -> Iterator[tuple[int, Any]]:
        """The batches of this pass from the place on, with their numbers; seeds for their steps."""
        seed = int(of_main_process(self.runner.seed))  # of others it may be another
        self.dataloader.batch_sampler.start = (seed, self.passes, self.batch)
        for number, data in enumerate(self.dataloader, self.batch):
            self.batch = number + 1
            seed_all(seed, self._iter, get_rank(), -1)
            yield number, data
        self.passes, self.batch = self.passes + 1, 0


@LOOPS.register_module()
class ExactEpochBasedTrainLoop(ExactLoop, EpochBasedTrainLoop):
    """MMEngine's loop by epoch, which can start within one.

    Accumulated gradients are applied at the end of an epoch, too, however many they are: a
    checkpoint has none.
    """

    def run(self) -> nn.Module:
        """Train."""
        self._epoch -= self._validates_first  # goes through its end again, without a step
        return super().run()

    def run_epoch(self) -> None:
        """Train for what is left of an epoch."""
        if not self._validates_first:
            self.runner.call_hook("before_train_epoch")
            self.runner.model.train()
            self.runner.optim_wrapper.initialize_count_status(
                self.runner.model, self.batch, len(self.dataloader)
            )
            self.validates = False
            for number, data in self.batches():
                self.run_iter(number, data)
            self.validates = True
            self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._validates_first = False


@LOOPS.register_module()
class ExactIterBasedTrainLoop(ExactLoop, IterBasedTrainLoop):
    """MMEngine's loop by iteration, which loads nothing again."""

    def run(self) -> nn.Module:
        """Train."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._validates_first:
            self._validate()
        batches = chain.from_iterable(self.batches() for _ in count())
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            _, data = next(batches)
            self.validates = True
            self.run_iter(data)
            self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        """Validate if it is time to."""
        self._decide_current_val_interval()
        is_due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= self.val_begin and is_due:
            self.runner.val_loop.run()


def exact_loop(settings: Any) -> Any:
    """The settings of a loop with the exact one for MMEngine's; others as they are."""
    if not isinstance(settings, Mapping) or {"type", "by_epoch"} <= {*settings}:
        return settings
    by_epoch = settings.get("by_epoch")
    kind = settings.get("type", EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    exact = {
        EpochBasedTrainLoop: ExactEpochBasedTrainLoop,
        IterBasedTrainLoop: ExactIterBasedTrainLoop,
    }
    if kind not in exact:
        return settings
    return {k: v for k, v in settings.items() if k != "by_epoch"} | {"type": exact[kind]}


class ExactResumeHook(Hook):
    """Writes a training's place to its checkpoints, and goes there when it resumes.

    Args:
        origin: what a training must share with the one that it resumes, for the checkpoints.
    """

    priority = "VERY_HIGH"  # before a checkpoint is saved

    def __init__(self, origin: Mapping[str, Any]) -> None:
        self.origin = dict(origin)

    def before_train(self, runner: Runner) -> None:
        """Keep the order in which DDP sums gradients on the CPU.

        It would choose another one after its first step, so that of three processes and more the
        sums of a step would depend on where the training started.
        """
        model = runner.model
        if isinstance(model, DistributedDataParallel) and model.device_type == "cpu":
            model.reducer._push_all_rebuilt_params()

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Note that the validation has ended, before a better checkpoint is saved."""
        runner.train_loop.validates = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the place, and the size that YOLOX's and RTMDet's images have for some steps."""
        sizes = [each._input_size for each in _resizes(runner.model)]
        checkpoint["meta"].update(
            place={**runner.train_loop.place, "sizes": sizes}, origin=self.origin
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go to the place; without one, to the start of the epoch or to the iteration."""
        if not runner._resume:
            return
        meta, loop = checkpoint["meta"], runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        passes, batch = (meta["epoch"], 0) if by_epoch else (0, meta["iter"])
        place = {**loop.place, "pass": passes, "batch": batch, **meta.get("place", {})}
        loop.go_to(place)
        for each, size in zip(_resizes(runner.model), place.get("sizes", ()), strict=False):
            each._input_size = size


def _resizes(model: nn.Module) -> list[BatchSyncRandomResize]:
    return [each for each in model.modules() if isinstance(each, BatchSyncRandomResize)]
