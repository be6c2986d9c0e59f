"""Which detectors can be exported: by their types and test settings, each of which is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mmdet.models as models
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from torch import nn

from mmconvnext.errors import ConfigError

DETECTORS = (models.FasterRCNN, models.MaskRCNN, models.CascadeRCNN)
# Transforms of a test pipeline that the graph does, or that change no pixel.
TRANSFORMS = ("LoadImageFromFile", "Resize", "LoadAnnotations", "PackDetInputs")


def check_exportable(detector: nn.Module, cfg: Config) -> Mapping[str, Any]:
    """The settings of the test pipeline's ``Resize``, of a detector that can be exported.

    Raises:
        ConfigError: it cannot, and by which settings.
    """
    if type(detector) not in DETECTORS:
        names = ", ".join(kind.__name__ for kind in DETECTORS)
        raise ConfigError(f"cannot export a {type(detector).__name__}: only {names}")
    faults = [*_of_heads(detector), *_of_settings(detector)]
    pipeline = [*get_test_pipeline_cfg(cfg)]
    kinds = [transform["type"].rpartition(".")[2].removeprefix("Fast") for transform in pipeline]
    faults += [f"the test pipeline's {kind}" for kind in kinds if kind not in TRANSFORMS]
    if faults:
        raise ConfigError(
            f"cannot export {cfg.filename}, as its {type(detector).__name__} has "
            f"{'; '.join(faults)}: the graph does not do that"
        )
    return pipeline[kinds.index("Resize")] if "Resize" in kinds else {}


def _of_heads(detector: nn.Module) -> Iterator[str]:
    """Modules that do something else than those that the graph knows."""
    roi = detector.roi_head
    expected = [
        ("rpn_head", [detector.rpn_head], RPNHead),
        ("rpn_head.prior_generator", [detector.rpn_head.prior_generator], AnchorGenerator),
        ("rpn_head.bbox_coder", [detector.rpn_head.bbox_coder], DeltaXYWHBBoxCoder),
        ("roi_head.bbox_head", roi.bbox_head, ConvFCBBoxHead),
        ("roi_head.bbox_roi_extractor", roi.bbox_roi_extractor, SingleRoIExtractor),
    ]
    if roi.with_mask:
        expected.append(("roi_head.mask_head", roi.mask_head, FCNMaskHead))
    for name, found, kind in expected:
        for module in found if isinstance(found, nn.ModuleList | list) else [found]:
            if not isinstance(module, kind) or getattr(module, "custom_activation", False):
                yield f"{name}={type(module).__name__}"
    if type(roi) not in (StandardRoIHead, CascadeRoIHead):
        yield f"roi_head={type(roi).__name__}"
    if roi.with_shared_head:
        yield "roi_head.shared_head"


def _of_settings(detector: nn.Module) -> Iterator[str]:
    for name, cfg in (("rpn", detector.rpn_head.test_cfg), ("rcnn", detector.roi_head.test_cfg)):
        nms = dict(cfg.nms)
        if nms.pop("type", "nms") != "nms" or nms.keys() != {"iou_threshold"}:
            yield f"test_cfg.{name}.nms={dict(cfg.nms)}"
