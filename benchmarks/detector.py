"""The comparison of detectors: ours, MMDetection's ConvNeXt, and the peers of the paper."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
from collections.abc import Mapping, Sequence
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
from benchmarks.backbone import SEED, fill
from benchmarks.comparison import OURS, VAL, Arrays, add_data_arguments, check_coco, demand, run
from benchmarks.data import BITMAPS, steps
from benchmarks.report import Report, fact_column
from benchmarks.worker import Candidate, python_path
from mmconvnext.analysis.flops import count_flops
from mmconvnext.compat.ops import roi_align_cpu
from mmconvnext.engine.config import drop_pretrained, load_config, set_data_root
from mmconvnext.engine.device import convolutions_to_channels_last

# Of random weights of the last layers: so that scores differ, and pass the threshold.
LAST_LAYERS_STD = {"fc_cls.weight": 0.2, "conv_logits.weight": 0.3}
SAME = "MMDetection, mmpretrain"
RECIPE = "mmdet::convnext/{}-p4-w7_fpn_{}amp-ms-crop-3x_coco.py"
SWIN_T = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py"
CASCADE_R50 = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
# kind -> name -> config, and the published frames a second on an A100 of a detector of this kind
# ("A ConvNet for the 2020s", table 3)
DETECTORS: Mapping[str, Mapping[str, tuple[str, float | None]]] = {
    "mask_rcnn": {
        OURS: ("mask_rcnn_convnext_t_coco.py", 25.6),
        SAME: (RECIPE.format("mask-rcnn_convnext-t", ""), 25.6),
        "MMDetection, Swin-T": (SWIN_T, 23.1),
        "MMDetection, ResNet-50": ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", None),
    },
    "cascade": {
        OURS: ("cascade_convnext_t_coco.py", 13.5),
        SAME: (RECIPE.format("cascade-mask-rcnn_convnext-t", "4conv1fc-giou_"), 13.5),
        "MMDetection, ResNet-50": (CASCADE_R50, 16.2),
    },
}
# boxes in pixels; masks: the share of the pixels of ours
LIMITS = {"boxes": 1e-3, "scores": 1e-4, "masks": 1e-3}
NOTES = (
    "detectors have random weights and, by those of their classifiers, detections on every image; "
    "ours and MMDetection's ConvNeXt have the same weights",
    "distance: of boxes in pixels, of scores, and the share of the pixels of masks that differ; "
    "Swin-T and ResNet-50 are other networks, of which nothing is compared",
    "published: frames a second on an A100, ours divided by theirs (A ConvNet for the 2020s, "
    "table 3), to be compared with time / ours",
    roofline.NOTE,
)
COLUMNS = (
    fact_column("images/s", "images", form=".3f", per_second=True),
    fact_column("published", "published_ratio", form=".2f"),
)


class Detector:
    """The factory of the comparison of detectors, see :class:`benchmarks.worker.Candidate`.

    What is timed is the loop of a test: reading and resizing each image, the detector, and what
    the metric does with its detections as they come (encoding masks), one image at a time.

    Args:
        config: a file, or the name of one of ours or of MMDetection's (``mmdet::…``).
        data_root: folder of COCO.
        images: how many of val2017.
        device: in torch's words.
        reference: for a peer, our config, whose images are used; then transforms, metric, layout of
            weights and, where mmcv has no compiled kernels, RoIAlign are not ours either.
        same: whether it is the same network as the reference, and gets the same weights.
        scale: the long and the short side in pixels that images are resized to fit into; None for
            the config's.
    """

    def __init__(
        self,
        config: str,
        data_root: str,
        images: int,
        device: str,
        reference: str | None = None,
        same: bool = False,
        scale: Sequence[int] | None = None,
    ):
        quiet = contextlib.redirect_stdout(io.StringIO())
        with DefaultScope.overwrite_default_scope("mmdet"), quiet:
            cfg = load_config(reference or config)
            set_data_root(cfg, data_root)
            dataset, metric = cfg.test_dataloader.dataset, cfg.test_evaluator
            for transform in dataset.pipeline:
                if scale is not None and transform["type"] == "Resize":
                    transform["scale"] = tuple(scale)
            torch.manual_seed(SEED)
            self._model = build(cfg, cfg.model.test_cfg)
            if reference:
                peer = build(load_config(config), cfg.model.test_cfg)
                if same:
                    copy_weights(self._model, peer)
                self._model = peer
                dataset.pipeline = steps(dataset.pipeline, BITMAPS)
                metric = {**metric, "type": "CocoMetric"}
                roi_align_cpu.pooling_matrices = lambda *_: None
            else:
                convolutions_to_channels_last(self._model)
            self._dataset = DATASETS.build(dataset)
            self._evaluator = Evaluator([METRICS.build(metric)])
            self._evaluator.dataset_meta = self._dataset.metainfo
        self._indices = range(min(images, len(self._dataset)))
        self._model.to(device).eval()

    def run(self) -> int:
        """Go through all images; return the number of detections."""
        number = sum(len(self._detect(index)) for index in self._indices)
        self._evaluator.metrics[0].results.clear()
        return number

    def check(self) -> dict[str, np.ndarray]:
        """Return boxes, scores, labels and masks (eight pixels in a byte) of each image."""
        arrays: dict[str, np.ndarray] = {}
        for index in self._indices:
            found = self._detect(index)
            for kind, key in (("boxes", "bboxes"), ("scores", "scores"), ("labels", "labels")):
                arrays[f"{kind} {index}"] = found[key].cpu().numpy()
            arrays[f"masks {index}"] = np.packbits(found.masks.cpu().numpy(), axis=-1)
        return arrays

    def facts(self) -> dict[str, float]:
        """Return the work of a run.

        Operations are those of torch's convolutions and matrix products, two for a multiply-add;
        multiply-adds are those of the papers, for an image of the first one's pixels (padded).
        """
        with FlopCounterMode(display=False) as counter:
            detections = self.run()
        batch = self._model.data_preprocessor(pseudo_collate([self._dataset[0]]))
        shape = tuple(batch["inputs"].shape[-2:])
        cost = count_flops(self._model, shape)
        return {
            "images": len(self._indices),
            "operations": counter.get_total_flops(),
            "detections": detections,
            "pixels": math.prod(shape),
            "multiply_adds": cost.flops,
            "parameters": cost.params,
        }

    @torch.no_grad()
    def _detect(self, index: int) -> Any:
        batch = pseudo_collate([self._dataset[index]])
        samples = self._model.test_step(batch)
        found = samples[0].pred_instances
        self._evaluator.process(data_samples=samples, data_batch=batch)
        return found


def build(cfg: Config, test_cfg: Mapping) -> nn.Module:
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
def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give a detector our weights; fails where one of its parts is another than ours."""
    fill(theirs.backbone, ours.backbone.state_dict())
    for name, part in ours.named_children():
        if name != "backbone":
            theirs.get_submodule(name).load_state_dict(part.state_dict())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    kinds = {"choices": DETECTORS, "default": [*DETECTORS], "help": "default: both"}
    parser.add_argument("--kind", nargs="+", **kinds)
    add_data_arguments(parser, images=4)
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each kind that the command line names; may raise BenchmarkError."""
    device = roofline.choose_device(args.device)
    check_coco(args.data_root, *VAL)
    work = {"data_root": args.data_root, "images": args.images, "device": device}
    tables = []
    for kind in args.kind:
        title = f"{kind}, ConvNeXt-T, {args.images} images at full size, {device}"
        results = run(candidates(kind, work), args, check, title)
        if SAME in results.facts:  # the same work, counted where it is torch's operators alone
            results.facts[OURS]["operations"] = results.facts[SAME]["operations"]
        tables.append(results)
    return Report(tables, (*COLUMNS, *roofline.COLUMNS), NOTES)


def candidates(kind: str, work: Mapping[str, Any]) -> list[Candidate]:
    """Describe the detectors of a kind, ours first, and the machine's matrix product."""
    ours, of_ours = DETECTORS[kind][OURS]
    chosen = []
    for name, (config, published) in DETECTORS[kind].items():
        peer = {} if name == OURS else {"reference": ours, "same": name == SAME}
        path = python_path("mmpretrain") if name == SAME else ()
        facts = {"published_ratio": of_ours / published} if published else {}
        chosen.append(
            Candidate(name, Detector, {"config": config, **peer, **work}, path, facts=facts)
        )
    return [*chosen, roofline.reference(work["device"], "float32")]


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same detections of the same network, else raise UnequalResultsError."""
    if name != SAME:  # other networks detect something else
        return {}
    return check_same(name, ours, theirs)


def check_same(
    name: str, ours: Arrays, theirs: Arrays, limits: Mapping[str, float] = LIMITS
) -> dict[str, float]:
    """Demand the same detections, to these limits, else raise UnequalResultsError."""
    images = [key.partition(" ")[2] for key in ours if key.startswith("boxes ")]
    detected = any(len(ours[f"boxes {image}"]) for image in images)
    demand(detected, "nothing was detected that could be compared")
    found = []
    for image in images:
        kinds = (*LIMITS, "labels")
        pair = [{kind: each[f"{kind} {image}"] for kind in kinds} for each in (ours, theirs)]
        found.append(distances(image, *pair, name, limits))
    return {kind: max(each[kind] for each in found) for kind in LIMITS}


def distances(
    image: str,
    ours: Arrays,
    theirs: Arrays,
    name: str = SAME,
    limits: Mapping[str, float] = LIMITS,
) -> dict[str, float]:
    """Pair each of our detections with theirs of the same class that is nearest, and compare.

    Detections come in the order of their scores, which may be equal to rounding.
    """
    numbers = [len(each["boxes"]) for each in (theirs, ours)]
    other = f"{name} and ours detect other things on image {image}: {numbers[0]} and {numbers[1]}"
    demand(numbers[0] == numbers[1], f"{other} objects")
    if not numbers[0]:
        return dict.fromkeys(LIMITS, 0.0)
    gaps = np.abs(ours["boxes"][:, None] - theirs["boxes"][None]).max(-1)
    gaps[ours["labels"][:, None] != theirs["labels"][None]] = np.inf
    order = gaps.argmin(1)
    demand(len({*order.tolist()}) == len(order), f"{other} objects, of which not all pair up")
    found = {k: float(np.abs(ours[k] - theirs[k][order]).max()) for k in ("boxes", "scores")}
    different = np.bitwise_count(ours["masks"] ^ theirs["masks"][order]).sum()
    found["masks"] = float(different / max(np.bitwise_count(ours["masks"]).sum(), 1))
    for kind, limit in limits.items():
        demand(
            found[kind] <= limit,  # not where it is not a number
            f"{name} and ours differ in the {kind} of image {image} by {found[kind]:.3g}, at most "
            f"{limit:g} is allowed",
        )
    return found
