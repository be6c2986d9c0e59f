"""Which detectors can be exported: by their types and test settings, each of which is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmdet.models as models
from mmcv.ops import RoIAlign
from mmdet.models import dense_heads
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from torch import nn

from mmconvnext.deploy.graph import TwoStageGraph, listed
from mmconvnext.deploy.one_stage import OneStageGraph
from mmconvnext.errors import ConfigError
from mmconvnext.models.mask_head import FastFCNMaskHead

TWO_STAGE = (models.FasterRCNN, models.MaskRCNN, models.CascadeRCNN)
# One-stage detectors and the heads that each may have. TOOD's and VFNet's cannot be traced: MMCV's
# deformable convolution makes numbers of all sizes.
ONE_STAGE: Mapping[type, Sequence[type]] = {
    models.ATSS: (dense_heads.ATSSHead,),
    models.CenterNet: (dense_heads.CenterNetUpdateHead,),
    models.FCOS: (dense_heads.FCOSHead,),
    models.GFL: (dense_heads.GFLHead,),
    models.RetinaNet: (dense_heads.RetinaHead,),
    models.RTMDet: (dense_heads.RTMDetHead, dense_heads.RTMDetSepBNHead),
    models.YOLOX: (dense_heads.YOLOXHead,),
}
DETECTORS = (*TWO_STAGE, *ONE_STAGE)
BOX_HEADS = (ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
MASK_HEADS = (FCNMaskHead, FastFCNMaskHead)
# Transforms of a test pipeline that the graph does, or that change no pixel, and which of their
# settings must be so.
TRANSFORMS = {
    "LoadImageFromFile": {"to_float32": False},
    "Resize": {"backend": "cv2", "interpolation": "bilinear"},
    "Pad": {"size_divisor": None, "padding_mode": "constant"},
    "LoadAnnotations": {},
    "PackDetInputs": {},
}


def graph_of(detector: nn.Module, cfg: Config, pasted: bool = False) -> nn.Module:
    """A detector and its test pipeline as a module of tensors; may raise ConfigError.

    Args:
        detector: built by MMDetection.
        cfg: of the detector.
        pasted: whether masks are of the pictures' size.
    """
    resize = check_exportable(detector, cfg)
    if isinstance(detector, TWO_STAGE):
        return TwoStageGraph(detector, resize, pasted)
    if pasted:
        raise ConfigError(f"--pasted: a {type(detector).__name__} has no masks")
    return OneStageGraph(detector, resize)


def check_exportable(detector: nn.Module, cfg: Config) -> Mapping[str, Any]:
    """The settings of the test pipeline's ``Resize``, of a detector that can be exported.

    Those of its ``Pad`` are under ``pad``.

    Raises:
        ConfigError: it cannot, and by which settings.
    """
    if type(detector) not in DETECTORS:
        names = ", ".join(kind.__name__ for kind in DETECTORS)
        raise ConfigError(f"cannot export a {type(detector).__name__}: only {names}")
    one_stage = type(detector) in ONE_STAGE
    faults = [*(_of_dense_head if one_stage else _of_heads)(detector), *_of_settings(detector)]
    pipeline = [*get_test_pipeline_cfg(cfg)]
    kinds = [transform["type"].rpartition(".")[2].removeprefix("Fast") for transform in pipeline]
    faults += _of_pipeline(pipeline, kinds)
    if faults:
        raise ConfigError(
            f"cannot export {cfg.filename}, as its {type(detector).__name__} has "
            f"{'; '.join(faults)}: the graph does not do that"
        )
    named = dict(zip(kinds, pipeline, strict=True))
    return {**named.get("Resize", {}), **({"pad": named["Pad"]} if "Pad" in named else {})}


def _of_heads(detector: nn.Module) -> Iterator[str]:
    """Modules that do something else than those that the graph knows."""
    rpn, roi = detector.rpn_head, detector.roi_head
    heads, extractors = listed(roi.bbox_head), listed(roi.bbox_roi_extractor)
    expected = [
        ("rpn_head", [rpn], (RPNHead,)),
        ("rpn_head.prior_generator", [rpn.prior_generator], (AnchorGenerator,)),
        ("roi_head", [roi], (StandardRoIHead, CascadeRoIHead)),
        ("roi_head.bbox_head", heads, BOX_HEADS),
    ]
    if roi.with_mask:
        expected.append(("roi_head.mask_head", listed(roi.mask_head), MASK_HEADS))
        if not roi.share_roi_extractor:
            extractors += listed(roi.mask_roi_extractor)
    expected.append(("roi_head.roi_extractor", extractors, (SingleRoIExtractor,)))
    layers = [each for extractor in extractors for each in getattr(extractor, "roi_layers", ())]
    expected.append(("roi_head.roi_extractor.roi_layer", layers, (RoIAlign,)))
    for name, modules, kinds in expected:
        for module in modules:
            if type(module) not in kinds:
                yield f"{name}={type(module).__name__}"
    for name, head in (("rpn_head", rpn), *(("roi_head.bbox_head", head) for head in heads)):
        coder = getattr(head, "bbox_coder", None)
        if type(coder) is not DeltaXYWHBBoxCoder or not coder.clip_border:
            yield f"{name}.bbox_coder={type(coder).__name__} (clip_border=True is done)"
        if getattr(head, "custom_activation", False):
            yield f"{name} with an activation of its own"
    if any(getattr(layer, "pool_mode", "avg") != "avg" for layer in layers):
        yield "roi_layer.pool_mode other than avg"
    if roi.with_shared_head:
        yield "roi_head.shared_head"


def _of_dense_head(detector: nn.Module) -> Iterator[str]:
    head = detector.bbox_head
    if type(head) not in ONE_STAGE[type(detector)]:
        yield f"bbox_head={type(head).__name__}"
    if type(head.prior_generator) not in (AnchorGenerator, MlvlPointGenerator):
        yield f"bbox_head.prior_generator={type(head.prior_generator).__name__}"
    coder = getattr(head, "bbox_coder", None)  # YOLOX has none
    kinds, cut = (DeltaXYWHBBoxCoder, DistancePointBBoxCoder), getattr(coder, "clip_border", True)
    if coder is not None and (type(coder) not in kinds or not cut):
        yield f"bbox_head.bbox_coder={type(coder).__name__} (clip_border=True is done)"
    if getattr(head.loss_cls, "custom_cls_channels", False):
        yield f"bbox_head.loss_cls={type(head.loss_cls).__name__}"


def _of_settings(detector: nn.Module) -> Iterator[str]:
    if type(detector) in ONE_STAGE:
        settings = {"": detector.bbox_head.test_cfg}
    else:
        settings = {".rpn": detector.rpn_head.test_cfg, ".rcnn": detector.roi_head.test_cfg}
    for name, cfg in settings.items():
        nms = dict(cfg.nms)
        if nms.pop("type", "nms") != "nms" or nms.keys() != {"iou_threshold"}:
            yield f"test_cfg{name}.nms={dict(cfg.nms)}"


def _of_pipeline(pipeline: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Iterator[str]:
    for transform, kind in zip(pipeline, kinds, strict=True):
        known = TRANSFORMS.get(kind)
        if known is None:
            yield f"the test pipeline's {kind}"
            continue
        for key, value in transform.items():
            if known.get(key, value) != value:
                yield f"the test pipeline's {kind}({key}={value!r})"
