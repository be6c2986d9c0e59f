"""The comparison of detectors: ours, MMDetection's ConvNeXt, and the peers of the paper."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  registers
import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import roofline
from benchmarks.comparison import (
    Arrays,
    BenchmarkError,
    Candidate,
    Results,
    check_positive,
    demand,
    run,
    run_options,
)
from benchmarks.data import BITMAPS, steps
from benchmarks.peers import fill, python_path
from benchmarks.report import Column, Report, fact_column
from mmconvnext.compat.ops import roi_align_cpu
from mmconvnext.engine.config import drop_pretrained, load_config, set_data_root
from mmconvnext.engine.device import convolutions_to_channels_last

SEED = 0
# Of the random weights of the last layers: so that scores differ, and pass the threshold.
LAST_LAYERS_STD = {"fc_cls.weight": 0.2, "conv_logits.weight": 0.3}
OURS = "ours"
SAME = "MMDetection, mmpretrain"
RECIPE = "mmdet::convnext/{}-p4-w7_fpn_{}amp-ms-crop-3x_coco.py"
# kind -> our config, then those of MMDetection
DETECTORS: Mapping[str, Mapping[str, str]] = {
    "mask_rcnn": {
        OURS: "mask_rcnn_convnext_t_coco.py",
        SAME: RECIPE.format("mask-rcnn_convnext-t", ""),
        "MMDetection, Swin-T": "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
        "MMDetection, ResNet-50": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    },
    "cascade": {
        OURS: "cascade_convnext_t_coco.py",
        SAME: RECIPE.format("cascade-mask-rcnn_convnext-t", "4conv1fc-giou_"),
        "MMDetection, ResNet-50": "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    },
}
# Published frames a second on an A100 ("A ConvNet for the 2020s", table 3), of the same kind.
PUBLISHED_FPS = {
    ("mask_rcnn", OURS): 25.6,
    ("mask_rcnn", SAME): 25.6,
    ("mask_rcnn", "MMDetection, Swin-T"): 23.1,
    ("cascade", OURS): 13.5,
    ("cascade", SAME): 13.5,
    ("cascade", "MMDetection, ResNet-50"): 16.2,
}
# boxes in pixels; masks: the share of the pixels of ours
LIMITS = {"boxes": 1e-3, "scores": 1e-4, "masks": 1e-3}
KINDS = (*LIMITS, "labels")
NOTES = (
    "detectors have random weights and, by those of their classifiers, detections on every image; "
    "ours and MMDetection's ConvNeXt have the same weights",
    "distance: of boxes in pixels, of scores, and the share of the pixels of masks that differ; "
    "Swin-T and ResNet-50 are other networks, of which nothing is compared",
    "published: frames a second on an A100, ours divided by theirs (A ConvNet for the 2020s, "
    "table 3), to be compared with time / ours",
)
COLUMNS = (
    Column("images/s", lambda r, name: f"{r.facts[name]['images'] / r.median_seconds(name):.3f}"),
    fact_column("published", "published_ratio", form=".2f"),
    *roofline.COLUMNS,
)


class Detector:
    """The factory of the comparison of detectors, see :class:`benchmarks.comparison.Candidate`.

    What is timed is the loop of a test: reading and resizing each image, the detector, and what
    the metric does with its detections as they come (encoding masks), one image at a time.

    Args:
        config: a file, or the name of one of ours or of MMDetection's (``mmdet::…``).
        reference: our config, whose images are used and whose weights are copied where ``same``.
        same: whether it is the same network, and gets the same weights.
        ours: whether our transforms, metric, layout of weights and RoIAlign are used; else those of
            MMDetection and, where mmcv has no compiled kernels, torchvision's in their place.
        data_root: folder of COCO.
        images: how many of its validation split.
        device: in torch's words.
        scale: the long and the short side in pixels that images are resized to fit into; None for
            the config's.
    """

    def __init__(
        self,
        config: str,
        reference: str,
        same: bool,
        ours: bool,
        data_root: str,
        images: int,
        device: str,
        scale: Sequence[int] | None = None,
    ):
        with (
            DefaultScope.overwrite_default_scope("mmdet"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            cfg = load_config(reference)
            set_data_root(cfg, data_root)
            dataset = cfg.test_dataloader.dataset
            for transform in dataset.pipeline:
                if scale is not None and transform["type"] == "Resize":
                    transform["scale"] = tuple(scale)
            torch.manual_seed(SEED)
            self._model = _build(cfg, cfg.model.test_cfg)
            if config != reference:
                peer = _build(load_config(config), cfg.model.test_cfg)
                if same:
                    _copy(self._model, peer)
                self._model = peer
            if not ours:
                dataset.pipeline = steps(dataset.pipeline, BITMAPS)
            self._dataset = DATASETS.build(dataset)
            metric = cfg.test_evaluator if ours else {**cfg.test_evaluator, "type": "CocoMetric"}
            self._evaluator = Evaluator([METRICS.build(metric)])
            self._evaluator.dataset_meta = self._dataset.metainfo
        self._indices = range(min(images, len(self._dataset)))
        if ours:
            convolutions_to_channels_last(self._model)
        else:
            roi_align_cpu.pooling_matrices = lambda *_: None
        self._model.to(device).eval()
        self._num_detections = 0

    def run(self) -> None:
        """Go through all images."""
        for index in self._indices:
            self._detect(index)
        self._evaluator.metrics[0].results.clear()

    def check(self) -> dict[str, np.ndarray]:
        """Return what is detected, ``boxes``, ``scores``, ``labels`` and ``masks`` of each image.

        Masks are packed, eight pixels in a byte.
        """
        arrays: dict[str, np.ndarray] = {}
        self._num_detections = 0
        for index in self._indices:
            found = self._detect(index)
            self._num_detections += len(found)
            for kind, key in (("boxes", "bboxes"), ("scores", "scores"), ("labels", "labels")):
                arrays[f"{kind} {index}"] = found[key].cpu().numpy()
            arrays[f"masks {index}"] = np.packbits(found.masks.cpu().numpy(), axis=-1)
        return arrays

    def facts(self) -> dict[str, float]:
        """Return the number of images, of operations, and of detections once they were checked.

        ``flops`` are those of torch's convolutions and matrix products; a multiply-add is two.
        """
        with FlopCounterMode(display=False) as counter:
            self.run()
        counted = {"images": len(self._indices), "flops": counter.get_total_flops()}
        return {**counted, "detections": self._num_detections}

    @torch.no_grad()
    def _detect(self, index: int) -> Any:
        batch = pseudo_collate([self._dataset[index]])
        samples = self._model.test_step(batch)
        found = samples[0].pred_instances
        self._evaluator.process(data_samples=samples, data_batch=batch)
        return found


def _build(cfg: Config, test_cfg: Mapping) -> nn.Module:
    """Build a detector without pretrained weights that detects as much as it may."""
    drop_pretrained(cfg)
    cfg.model.test_cfg = test_cfg
    model = MODELS.build(cfg.model)
    for name, param in model.roi_head.named_parameters():
        for layer, std in LAST_LAYERS_STD.items():
            if layer in name:
                nn.init.normal_(param, std=std)
    return model


@torch.no_grad()
def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Give a detector our weights; raises BenchmarkError where its parts are not ours."""
    fill(theirs.backbone, ours.backbone.state_dict())
    for name, part in ours.named_children():
        if name == "backbone":
            continue
        try:
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        except (AttributeError, RuntimeError) as error:
            raise BenchmarkError(f"{name} is another than ours: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    add("--kind", nargs="+", choices=DETECTORS, default=[*DETECTORS], help="default: both")
    add("--data-root", default="data/coco/", help="folder of COCO 2017")
    add("--images", type=int, default=4, help="of a run, from val2017; default: %(default)s")
    add("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each kind that the command line names; may raise BenchmarkError."""
    device = roofline.choose_device(args.device)
    check_positive(images=args.images)
    if not Path(args.data_root).is_dir():
        raise BenchmarkError(
            f"--data-root {args.data_root} is no folder: name that of COCO 2017, with "
            "annotations/instances_val2017.json and val2017/"
        )
    options = run_options(args)
    tables = [
        compare_one(kind, args.data_root, args.images, device, **options) for kind in args.kind
    ]
    return Report(tables, COLUMNS, [*NOTES, roofline.note(tables)])


def compare_one(kind: str, data_root: str, images: int, device: str, **options: int) -> Results:
    """Compare, then time.

    ``kind`` is a key of ``DETECTORS``; the others are of :class:`Detector` and
    :func:`benchmarks.comparison.run`.
    """
    title = f"{kind}, ConvNeXt-T, {images} images at full size, {device}"
    gemm = roofline.reference(device, "float32")
    chosen = candidates(kind, data_root, images, device)
    results = run(chosen, check=check, title=title, reference=gemm, **options)
    if SAME in results.facts:  # the same work, counted where it is torch's operators alone
        results.facts[OURS]["flops"] = results.facts[SAME]["flops"]
    roofline.relate(results)
    for name, facts in results.facts.items():
        if published := PUBLISHED_FPS.get((kind, name)):
            facts["published_ratio"] = PUBLISHED_FPS[kind, OURS] / published
    return results


def candidates(kind: str, data_root: str, images: int, device: str) -> list[Candidate]:
    """Describe candidates, see :class:`Detector`."""
    common = {"reference": DETECTORS[kind][OURS], "data_root": data_root}
    common |= {"images": images, "device": device}
    return [
        Candidate(
            name,
            f"{__name__}:Detector",
            {"config": config, "same": name == SAME, "ours": name == OURS, **common},
            python_path("mmpretrain") if name == SAME else (),
        )
        for name, config in DETECTORS[kind].items()
    ]


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same detections of the same network, else raise UnequalResultsError.

    Other networks detect something else.
    """
    if name != SAME:
        return {}
    images = [key.partition(" ")[2] for key in ours if key.startswith("boxes ")]
    detected = any(len(ours[f"boxes {image}"]) for image in images)
    demand(detected, "nothing was detected that could be compared")
    distances = dict.fromkeys(LIMITS, 0.0)
    for image in images:
        pair = [{kind: each[f"{kind} {image}"] for kind in KINDS} for each in (ours, theirs)]
        for kind, distance in _distances(image, *pair).items():
            distances[kind] = max(distances[kind], distance)
    return distances


def _distances(image: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    numbers = [len(each["boxes"]) for each in (theirs, ours)]
    order = _partners(ours, theirs) if numbers[0] == numbers[1] else None
    other = f"{SAME} and ours detect other things on image {image}: {numbers[0]} and {numbers[1]}"
    demand(order is not None, f"{other} objects, of which not all pair up")
    different = np.bitwise_count(ours["masks"] ^ theirs["masks"][order]).sum()
    found = {
        kind: float(np.abs(ours[kind] - theirs[kind][order]).max(initial=0))
        for kind in ("boxes", "scores")
    }
    found["masks"] = float(different / max(np.bitwise_count(ours["masks"]).sum(), 1))
    for kind, limit in LIMITS.items():
        demand(
            found[kind] <= limit,  # not where it is not a number
            f"{SAME} and ours differ in the {kind} of image {image} by {found[kind]:.3g}, at most "
            f"{limit:g} is allowed",
        )
    return found


def _partners(ours: Arrays, theirs: Arrays) -> np.ndarray | None:
    """For each of our detections, theirs of the same class that is nearest; None if two share one.

    Detections come in the order of their scores, which may be equal to rounding.
    """
    gaps = np.abs(ours["boxes"][:, None] - theirs["boxes"][None]).max(-1)
    gaps[ours["labels"][:, None] != theirs["labels"][None]] = np.inf
    order = gaps.argmin(1) if len(gaps) else np.zeros(0, dtype=int)
    return order if len({*order.tolist()}) == len(order) else None
