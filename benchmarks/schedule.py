"""What training on COCO costs, on paper: computed from published speeds, measured by nobody here.

An inference passes an image forward; a training step passes it forward and backward, which is three
times the operations. A GPU is taken to train at a third of the speed at which it infers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.backbones import FORWARD_PASSES_OF_STEP
from benchmarks.report import format_rows

# Of the 118,287 images of train2017, those with objects: training leaves out the others.
TRAINING_IMAGES = 117_266
EPOCHS = 36
IMAGES_PER_GPU = 2
GPUS = (8, 64)
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Published:
    """A detector of "A ConvNet for the 2020s", table 3.

    Attributes:
        name: as shown.
        images_per_second: of inference at 1280x800 on one A100.
    """

    name: str
    images_per_second: float


PUBLISHED = (
    Published("Mask R-CNN T", 25.6),
    Published("Cascade T", 13.5),
    Published("Cascade S", 12.0),
    Published("Cascade B", 11.4),
    Published("Cascade L", 10.0),
    Published("Cascade XL", 8.6),
)


@dataclass(frozen=True)
class Cost:
    """What the schedule costs on a number of GPUs.

    Attributes:
        name: of the detector.
        images_per_second: that a GPU trains, estimated.
        gpus: how many share the work.
        batch: images of a step on all GPUs.
        iterations: steps of the whole schedule.
        hours: of wall time, if more GPUs lose nothing to communication.
    """

    name: str
    images_per_second: float
    gpus: int
    batch: int
    iterations: int
    hours: float

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together."""
        return self.hours * self.gpus


def cost(detector: Published, gpus: int) -> Cost:
    """Compute what 36 epochs cost.

    Args:
        detector: whose published speed is used.
        gpus: at least 1; each takes two images a step.
    """
    batch = IMAGES_PER_GPU * gpus
    iterations = EPOCHS * math.ceil(TRAINING_IMAGES / batch)
    speed = detector.images_per_second / FORWARD_PASSES_OF_STEP
    hours = iterations * IMAGES_PER_GPU / speed / SECONDS_PER_HOUR
    return Cost(detector.name, speed, gpus, batch, iterations, hours)


def costs() -> list[Cost]:
    """Compute it for every published detector and each of ``GPUS``."""
    return [cost(detector, gpus) for detector in PUBLISHED for gpus in GPUS]


def table(costs: Sequence[Cost], markdown: bool) -> str:
    """Format costs, a row for each detector.

    Args:
        costs: for each detector, one for each of ``GPUS``.
        markdown: as GitHub's markdown, else monospaced.
    """
    wall = [f"hours on {gpus} GPUs" for gpus in GPUS]
    headings = ["", "published images/s", "training images/s", "GPU-hours", *wall]
    rows = []
    for detector in PUBLISHED:
        own = [cost for cost in costs if cost.name == detector.name]
        rows.append(
            [
                detector.name,
                f"{detector.images_per_second:.1f}",
                f"{own[0].images_per_second:.1f}",
                f"{own[0].gpu_hours:.0f}",
                *(f"{cost.hours:.1f}" for cost in own),
            ]
        )
    return format_rows([headings, *rows], markdown)


def assumptions() -> list[str]:
    """Say what the estimate takes for granted, and what it leaves out."""
    few, many = (cost(PUBLISHED[0], gpus) for gpus in GPUS)
    scaling = many.batch // few.batch
    return [
        "an estimate, not a measurement; published: frames a second of inference on one A100 at "
        '1280x800 ("A ConvNet for the 2020s", table 3)',
        f"training images/s: of a GPU, the published speed divided by {FORWARD_PASSES_OF_STEP}, as "
        f"forward and backward are {FORWARD_PASSES_OF_STEP} times the operations of forward",
        f"{EPOCHS} epochs of {TRAINING_IMAGES:,} images, those of train2017's 118,287 that have "
        f"objects; {IMAGES_PER_GPU} images a GPU: {few.iterations:,} iterations of {few.batch} "
        f"images on {few.gpus} GPUs, {many.iterations:,} of {many.batch} on {many.gpus}",
        "not counted, would make it faster: mixed precision, which the recipes of T, S and B use, "
        "and training images smaller than 1280x800 (short sides of 480 to 800)",
        "not counted, would make it slower: communication, reading the data, the optimizer, the "
        "losses and the sampling of regions, evaluation",
        f"{many.gpus} GPUs are taken to be {scaling} times as fast as {few.gpus}, the upper bound",
        f"on {many.gpus} GPUs the batch is {many.batch}: the learning rate, tuned for {few.batch}, "
        f"has to be scaled (linearly: {scaling} times, `--auto-scale-lr`), with a longer warm-up; "
        "whether AP is the same there was not tried",
    ]
