"""Which curves are measured: where their points lie, and the candidates that are the points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.backbone_peers import OURS
from benchmarks.backbones import Task, candidates, count_flops
from benchmarks.comparison import Candidate
from benchmarks.detectors import CONFIGS

FACTORIES = "benchmarks.scaling_candidates"
OPERATIONS_PER_MULTIPLY_ADD = 2
MODES = {False: "inference", True: "forward + backward"}


@dataclass(frozen=True)
class Plan:
    """Where the points of the curves lie.

    Attributes:
        shapes: height and width of the backbone's images in pixels.
        batches: numbers of images.
        archs: of the backbone; the first is that of the other curves.
        side: in pixels, of the square images of the curves along batch and model.
        scales: for the detector, the long and the short side that an image is fitted into.
        detector: the config of the curve along area.
        detectors: by model, the configs of the curve along model size.
        scale: of those.
        step: images of a training step by one or two processes.
    """

    shapes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    archs: tuple[str, ...]
    side: int
    scales: tuple[tuple[int, int], ...]
    detector: str
    detectors: Mapping[str, str]
    scale: tuple[int, int]
    step: int


FULL = Plan(
    shapes=((224, 224), (320, 320), (480, 480), (640, 640), (800, 1280)),
    batches=(1, 2, 4, 8),
    archs=("tiny", "small", "base", "large", "xlarge"),
    side=320,
    scales=((533, 320), (800, 480), (1067, 640), (1333, 800)),
    detector="mask_rcnn_convnext_t_coco.py",
    detectors={
        "T": "cascade_convnext_t_coco.py",
        "S": "cascade_convnext_s_coco.py",
        "B": "cascade_convnext_b_coco.py",
        "L": "cascade_convnext_l_in22k_coco.py",
        "XL": "cascade_convnext_xl_in22k_coco.py",
    },
    scale=(800, 480),
    step=4,
)
QUICK = Plan(
    shapes=((64, 64), (96, 96), (128, 128)),
    batches=(1, 2, 3),
    archs=("atto", "femto", "pico"),
    side=64,
    scales=((160, 96), (213, 128), (320, 192)),
    detector="mask_rcnn_convnext_t_coco.py",
    detectors={
        "T": "mask_rcnn_convnext_t_coco.py",
        "S": "mask_rcnn_convnext_s_coco.py",
        "B": "mask_rcnn_convnext_b_coco.py",
    },
    scale=(160, 96),
    step=2,
)


@dataclass(frozen=True)
class Sweep:
    """A curve that is to be measured.

    Attributes:
        part: ``backbone`` or ``detector``.
        along: a key of :data:`benchmarks.scaling_curves.AXES`.
        title: of its table.
        candidates: its points.
        train: forward and backward, else inference.
        facts: by candidate, what the axes need and the candidate does not say itself.
    """

    part: str
    along: str
    title: str
    candidates: Sequence[Candidate]
    train: bool = False
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def backbone_sweeps(plan: Plan, device: str) -> Iterator[Sweep]:
    """Describe the curves of the backbone, in inference and in training.

    Args:
        plan: where their points lie.
        device: in torch's words.
    """
    arch, size = plan.archs[0], f"{plan.side}x{plan.side}"
    base = Task(arch, shape=(plan.side, plan.side), device=device)
    tasks = {
        "area": {f"{h}x{w}": replace(base, shape=(h, w)) for h, w in plan.shapes},
        "batch": {f"batch {batch}": replace(base, batch=batch) for batch in plan.batches},
        "model": {each: replace(base, arch=each) for each in plan.archs},
    }
    titles = {
        "area": f"ConvNeXt {arch}, {{}}, one image, against input area, {device}",
        "batch": f"ConvNeXt {arch}, {{}}, images of {size}, against batch, {device}",
        "model": f"ConvNeXt, {{}}, one image of {size}, against model size, {device}",
    }
    facts = {
        along: {name: _facts(task) for name, task in points.items()}
        for along, points in tasks.items()
    }
    for train, mode in MODES.items():
        for along, points in tasks.items():
            yield Sweep(
                "backbone",
                along,
                titles[along].format(mode),
                [_candidate(name, replace(task, train=train)) for name, task in points.items()],
                train,
                facts[along],
            )


def detector_sweeps(plan: Plan, data_root: str, device: str) -> Iterator[Sweep]:
    """Describe the curves of the detector in the loop of a test, with one image.

    Args:
        plan: where their points lie.
        data_root: folder of COCO.
        device: in torch's words.
    """

    def point(name: str, config: str, scale: Sequence[int]) -> Candidate:
        path = str(CONFIGS / config)
        arguments = {"config": path, "reference": path, "same": True, "ours": True, "images": 1}
        where = {"data_root": data_root, "device": device, "scale": scale}
        return Candidate(name, f"{FACTORIES}:CountedDetector", {**arguments, **where})

    yield Sweep(
        "detector",
        "area",
        f"{plan.detector.partition('_coco')[0]}, inference, one image, against input area, "
        f"{device}",
        [point(f"short side {scale[1]}", plan.detector, scale) for scale in plan.scales],
    )
    kind = next(iter(plan.detectors.values())).partition("_t_")[0]
    yield Sweep(
        "detector",
        "model",
        f"{kind}, inference, one image with a short side of {plan.scale[1]}, against model size, "
        f"{device}",
        [point(name, config, plan.scale) for name, config in plan.detectors.items()],
    )


def processes(plan: Plan, threads: int) -> list[Candidate]:
    """Describe training steps with the same images in one and in two processes.

    Args:
        plan: has model, image size and batch.
        threads: at least 2: of the single process that uses all, and of two together.
    """
    half = threads // 2
    work = {"arch": plan.archs[0], "batch": plan.step, "side": plan.side}
    return [
        Candidate(
            _layout(number, each),
            f"{FACTORIES}:DataParallel",
            {"processes": number, "threads": each, **work},
        )
        for number, each in ((1, half), (1, 2 * half), (2, half))
    ]


def _candidate(name: str, task: Task) -> Candidate:
    (candidate,) = candidates(task, [OURS])
    return replace(candidate, name=name)


def _facts(task: Task) -> dict[str, float]:
    """The place of a point on all axes; the cost is that of a forward pass."""
    import torch

    from mmconvnext.models import ConvNeXt

    with torch.device("meta"):
        parameters = sum(param.numel() for param in ConvNeXt(task.arch).parameters())
    return {
        "pixels": task.shape[0] * task.shape[1],
        "images": task.batch,
        "multiply_adds": count_flops(task) // OPERATIONS_PER_MULTIPLY_ADD,
        "parameters": parameters,
    }


def _layout(number: int, threads: int) -> str:
    processes = "1 process" if number == 1 else f"{number} processes"
    return f"{processes} x {threads} thread{'s' if threads > 1 else ''}"
