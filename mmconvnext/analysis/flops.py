"""Parameters and FLOPs of a detector, as the paper counts them, without data, weights or a GPU.

torch's counter watches one pass on the meta device, where tensors have shapes and no content:
even the largest detector takes neither memory nor time. MMEngine's counter traces instead, and
torch's tracer fails on that device. Where the paper's protocol has no place for a detector, the
counter watches a real prediction on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.engine.config import drop_pretrained
from mmconvnext.engine.provenance import run_info
from mmconvnext.errors import ConfigError, UserError
from mmconvnext.evaluation.tables import format_table
from mmconvnext.variants import is_positive_int

SHAPE = (800, 1280)
NUM_PROPOSALS = 1000
NUM_MASK_ROIS = 100
IN_CHANNELS = 3
# torch counts a multiply-add as two operations, the papers of detection as one.
OPERATIONS_PER_MULTIPLY_ADD = 2
KINDS = (
    "it covers two-stage detectors with the heads of StandardRoIHead or CascadeRoIHead, and "
    "single-stage detectors"
)
COUNTED = "multiply-adds of convolutions and matrix products"


@dataclass(frozen=True)
class Part:
    """What one part of a detector costs."""

    name: str  # within the detector, for example roi_head.bbox_head.0
    params: int
    flops: int  # multiply-adds for one image, over all its regions


@dataclass(frozen=True)
class Cost:
    """What a detector costs."""

    shape: tuple[int, int]  # height and width of the image in pixels
    params: int
    flops: int  # multiply-adds for one image
    parts: tuple[Part, ...]  # in the order of the detector's modules; they add up to the whole
    protocol: str  # what was counted, in a sentence

    def table(self) -> str:
        """Format it as a table of parts with their sum, and the protocol below it."""
        rows = [["part", "params, M", "FLOPs, G"]]
        for name, each in (*((part.name, part) for part in self.parts), ("sum", self)):
            rows.append([name, f"{each.params / 1e6:.1f}", f"{each.flops / 1e9:.1f}"])
        return f"{format_table(rows, footing=True)}\nFLOPs: {self.protocol}"

    def info(self, cfg: Config) -> dict[str, Any]:
        """What to write as JSON: the cost, and what it was counted with."""
        unit = "params in 1, FLOPs in multiply-adds"
        return {"unit": unit, **asdict(self), "run": run_info(cfg)}


class FlopsError(UserError, ValueError):
    """A detector or a setting whose FLOPs cannot be counted."""


class OtherProtocolError(FlopsError):
    """A detector that the paper's protocol does not cover."""


def count_config(cfg: Config, shape: tuple[int, int] = SHAPE) -> Cost:
    """Build the model of a config, which is not changed, and count it.

    Raises:
        ConfigError: there is no ``model``, or it cannot be built.
        FlopsError: it cannot be run.
    """
    detector = build_detector(cfg)
    in_channels = cfg.model.get("backbone", {}).get("in_channels", IN_CHANNELS)
    try:
        return count_flops(detector, shape, in_channels=in_channels)
    except OtherProtocolError as error:
        return _count_prediction(cfg, shape, in_channels, str(error))


def build_detector(cfg: Config) -> nn.Module:
    """Build the model of a config, which is not changed, on the meta device.

    Where a constructor reads values of tensors, as that of MMDetection's Swin does, it is built on
    the CPU, which is logged.
    """
    if not cfg.get("model"):
        raise ConfigError(f"{cfg.filename} has no model: nothing to count")
    try:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
            try:
                with torch.device("meta"):
                    return MODELS.build(deepcopy(cfg.model))
            except RuntimeError as error:
                note = f"building the model on the CPU instead of meta: {error}"
                print_log(note, logger="current")
                return MODELS.build(deepcopy(cfg.model))
    except Exception as error:  # a model is anybody's code: anything can go wrong in it
        message = error.args[0] if error.args else error
        raise ConfigError(f"the model of {cfg.filename} cannot be built: {message}") from error


def count_flops(
    detector: nn.Module,
    shape: tuple[int, int] = SHAPE,
    num_proposals: int = NUM_PROPOSALS,
    num_mask_rois: int = NUM_MASK_ROIS,
    in_channels: int = IN_CHANNELS,
) -> Cost:
    """Count parameters and multiply-adds of a detector, which is not changed, for one image.

    The protocol of "A ConvNet for the 2020s" (arXiv 2201.03545, table 3), which is that of its
    predecessors: all proposals pass through each box head and all RoIs through each mask head; a
    cascade has three of both. Its published numbers come out to 0.2 %. Counted are convolutions
    and matrix products (linear layers, attention); normalisation, activations, resizing, RoIAlign
    and NMS are not. A single-stage detector is counted as its plain ``_forward``: backbone, neck
    and head. ``shape`` is the height and width in pixels of what the backbone gets, after padding.

    Raises:
        FlopsError: an argument is not positive, this kind of detector has no place in the
            protocol, it cannot be run, or it has weights that no counted operation used.
    """
    if len(shape) != 2 or not all(map(is_positive_int, shape)):
        raise FlopsError(
            f"shape={tuple(shape)} must be two positive integers: height and width in pixels, "
            f"for example {SHAPE[0]} {SHAPE[1]}"
        )
    numbers = {"num_proposals": num_proposals, "num_mask_rois": num_mask_rois}
    for name, value in (numbers | {"in_channels": in_channels}).items():
        if not is_positive_int(value):
            raise FlopsError(f"{name}={value!r} must be a positive integer")
    _check_kind(detector)
    model = DetectorPass(_meta_copy(detector), num_proposals, num_mask_rois)
    try:
        counts = _count(model, torch.empty(1, in_channels, *shape, device="meta"))
    except Exception as error:  # a model is anybody's code: anything can go wrong in it
        raise FlopsError(
            f"{type(detector).__name__} cannot be run on an image of {shape[0]}x{shape[1]} "
            f"(height x width): {type(error).__name__}: {error}; the image may be too small, or a "
            "layer may need a real device"
        ) from error
    if missed := _uncounted(model.detector, counts):
        # the sum would silently be too small
        raise OtherProtocolError(
            f"{type(detector).__name__} has layers that the count would leave out: "
            f"{', '.join(missed[:3])}{' and others' if missed[3:] else ''}"
        )
    protocol = f"{COUNTED} for one image of {shape[0]}x{shape[1]} (height x width), "
    if not isinstance(detector, TwoStageDetector):
        protocol += "the plain pass of a single-stage detector"
    else:
        masks = f", {num_mask_rois} RoIs through each mask head" * detector.roi_head.with_mask
        protocol += f"{num_proposals} proposals through each box head{masks}"
    return _cost(model.detector, counts, shape, protocol)


def _count_prediction(cfg: Config, shape: tuple[int, int], in_channels: int, reason: str) -> Cost:
    """Count one prediction on the CPU, with random weights and image."""
    cfg = deepcopy(cfg)
    drop_pretrained(cfg)
    sizes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    sample = DetDataSample(metainfo={**dict.fromkeys(sizes, shape), "scale_factor": (1.0, 1.0)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # with other weights there are other proposals
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
            detector = MODELS.build(cfg.model).eval()
        image = torch.randn(1, in_channels, *shape)
    # torch's counter asks each input that needs a gradient for what made it, which views of
    # parameters, such as DETR's queries, cannot say without a graph
    detector.requires_grad_(False)
    try:
        counts = _count(_Prediction(detector), image, sample)
    except Exception as error:  # a model is anybody's code: anything can go wrong in it
        raise FlopsError(
            f"{reason}; and its prediction fails: {type(error).__name__}: {error}"
        ) from error
    protocol = (
        f"{COUNTED} of one real prediction on an image of {shape[0]}x{shape[1]} (height x width), "
        "with random weights: what follows proposals depends on how many there are. Not the "
        f"paper's protocol: {reason}"
    )
    if silent := _uncounted(detector, counts):
        protocol += f". Not counted, or of the training alone: {len(silent)} layers, "
        protocol += ", ".join(silent[:3]) + ", ..." * (len(silent) > 3)
    return _cost(detector, counts, shape, protocol)


class DetectorPass(nn.Module):
    """A pass through a detector's layers, without RoIAlign and NMS: region features are given.

    Compiled mmcv has no kernels for the meta device.
    """

    def __init__(self, detector: nn.Module, num_proposals: int, num_mask_rois: int):
        super().__init__()
        self.detector = detector
        self.num_rois = {"bbox": num_proposals, "mask": num_mask_rois}

    def forward(self, image: Tensor) -> None:
        """Run every layer on an image (1, C, H, W)."""
        features = self.detector.extract_feat(image)
        if isinstance(self.detector, SingleStageDetector):
            self.detector.bbox_head(features)
            return
        if self.detector.with_rpn:
            self.detector.rpn_head(features)
        roi_head = self.detector.roi_head
        for kind, count in self.num_rois.items():
            if not getattr(roi_head, f"with_{kind}"):
                continue
            heads = getattr(roi_head, f"{kind}_head")
            extractors = getattr(roi_head, f"{kind}_roi_extractor")
            if not isinstance(heads, nn.ModuleList):
                heads, extractors = [heads], [extractors]
            for head, extractor in zip(heads, extractors, strict=True):
                size = extractor.roi_layers[0].output_size
                regions = image.new_empty(count, extractor.out_channels, *size)
                head(roi_head.shared_head(regions) if roi_head.with_shared_head else regions)


class _Prediction(nn.Module):
    """A prediction as a forward pass: the counter tells modules apart within one only."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, sample: DetDataSample) -> None:
        self.detector.predict(image, [sample], rescale=False)


def _count(model: DetectorPass | _Prediction, *inputs: Any) -> dict[str, int]:
    """Count the multiply-adds inside of each module of the detector, and of all, by ``Global``."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return {
        name.removeprefix(f"{type(model).__name__}.detector."): sum(operations.values())
        // OPERATIONS_PER_MULTIPLY_ADD
        for name, operations in counter.get_flop_counts().items()
    }


def _cost(
    detector: nn.Module, counts: Mapping[str, int], shape: tuple[int, int], protocol: str
) -> Cost:
    parts = [
        Part(name, num_params(part), counts.get(name, 0)) for name, part in _named_parts(detector)
    ]
    # DINO's detector calls single layers of its head, which is no part's pass
    parts.append(Part("(elsewhere)", 0, counts["Global"] - sum(part.flops for part in parts)))
    parts = tuple(part for part in parts if part.params or part.flops)
    return Cost((shape[0], shape[1]), num_params(detector), counts["Global"], parts, protocol)


def _check_kind(detector: nn.Module) -> None:
    """Refuse what passes its features on by rules of its own, unknown to `DetectorPass`."""
    name, reason = type(detector).__name__, ""
    has_roi_head = isinstance(detector, TwoStageDetector)
    if not _keeps(detector, (TwoStageDetector, SingleStageDetector), "_forward"):
        reason = "protocol"
    elif has_roi_head:
        roi_head = detector.roi_head if detector.with_roi_head else None
        known = (StandardRoIHead, CascadeRoIHead)
        if not all(_keeps(roi_head, known, each) for each in ("_bbox_forward", "_mask_forward")):
            name += f" with {type(roi_head).__name__}"
            reason = "protocol, as it runs its heads by rules of its own"
    if reason:
        raise OtherProtocolError(f"{name} has no place in the paper's {reason}: {KINDS}")


def _keeps(module: nn.Module | None, bases: tuple[type, ...], method: str) -> bool:
    """Whether a module is one of the bases in how it does one thing."""
    own = getattr(type(module), method, None)
    return any(isinstance(module, base) and own is getattr(base, method) for base in bases)


def _meta_copy(module: nn.Module) -> nn.Module:
    """Copy a module to meta, in eval mode and float32, without ever copying its weights."""
    memo: dict[int, Tensor] = {}
    for param in module.parameters():
        memo[id(param)] = nn.Parameter(torch.empty_like(param, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deepcopy(module, memo).eval().float()


def _uncounted(detector: nn.Module, counts: Mapping[str, int]) -> list[str]:
    """Layers that multiply with weights and had no counted operation of their own."""
    # A module that is there twice has two names, and the counter knows one of them.
    counted = {
        module
        for name, module in detector.named_modules(remove_duplicate=False)
        if counts.get(name, 0)
        > sum(counts.get(f"{name}.{child}", 0) for child, _ in module.named_children())
    }
    layers = ((n, m, getattr(m, "weight", None)) for n, m in detector.named_modules())
    return [
        name
        for name, module, weight in layers
        if module not in counted
        # unlike scales, matrices have more than one side
        and isinstance(weight, nn.Parameter)
        and sum(size > 1 for size in weight.shape) > 1
    ]


def _named_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The detector's parts, the RoI head's one by one, a cascade's stages too."""
    for name, child in module.named_children():
        if name == "roi_head" or isinstance(child, nn.ModuleList):
            yield from _named_parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def num_params(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(param.numel() for param in module.parameters())
