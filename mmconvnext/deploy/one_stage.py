"""MMDetection's one-stage detectors as modules of tensors alone, as :mod:`mmconvnext.deploy.graph`.

Layers, priors, coders and test settings are asked of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.dense_heads import GFLHead, YOLOXHead
from torch import Tensor, nn
from torch.nn.functional import pad

from mmconvnext.deploy.graph import detections
from mmconvnext.deploy.resize import Resized, normalised


class OneStageGraph(nn.Module):
    """A detector with a dense head from pictures of one size to boxes, scores and labels.

    Args:
        detector: built by MMDetection, with the settings that :mod:`mmconvnext.deploy.settings`
            allows.
        resize: settings of the test pipeline's ``Resize`` and, under ``pad``, of its ``Pad``.

    Attributes:
        size: the height and width that all pictures have; None for any.
    """

    size: tuple[int, int] | None = None

    def __init__(self, detector: nn.Module, resize: Mapping[str, Any]) -> None:
        super().__init__()
        self.detector, self.resize = detector, resize
        head = detector.bbox_head
        self.candidates = _best_by_class if isinstance(head, YOLOXHead) else _best

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            pictures: (B, H, W, 3), uint8 RGB.

        Returns:
            Boxes (B, N, 4), xyxy in pixels of the pictures; scores (B, N), best first, with -1 from
            the end of the detections on; labels (B, N).
        """
        head, preprocessor = self.detector.bbox_head, self.detector.data_preprocessor
        resized = Resized(pictures, self.resize, preprocessor.pad_size_divisor or 1)
        outputs = head(self.detector.extract_feat(normalised(resized, preprocessor)))
        generator, scores = head.prior_generator, outputs[0]
        offsets = {"with_stride": True} if isinstance(head, YOLOXHead) else {}
        sizes = [score.shape[-2:] for score in scores]
        priors = generator.grid_priors(sizes, device=scores[0].device, **offsets)
        found, priors_at = [], generator.num_base_priors[0]
        for prior, stride, *level in zip(priors, generator.strides, *outputs, strict=True):
            logits, deltas, *factors = (_by_place(each, priors_at) for each in level)
            score, label, place = self.candidates(head, logits, *factors)
            index = place[..., None].expand(-1, -1, deltas.shape[-1])
            boxes = _decoded(head, prior[place], deltas.gather(1, index), stride[0], resized)
            found.append((boxes / resized.factors, score, label))
        boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        cfg = head.test_cfg
        if (least := cfg.get("min_bbox_size", -1)) >= 0:
            scores = scores.where((boxes[..., 2:] - boxes[..., :2] > least).all(-1), -1.0)
        # YOLOX's keeps all
        most = None if isinstance(head, YOLOXHead) else cfg.max_per_img
        boxes, scores, labels = detections(boxes, scores, labels, cfg.nms.iou_threshold, most)
        there = scores >= 0
        return boxes.where(there[..., None], 0.0), scores, labels.where(there, -1)


def _by_place(outputs: Tensor, priors: int) -> Tensor:
    """Maps (B, priors * C, h, w) by place and prior: (B, h * w * priors, C)."""
    channels = outputs.shape[1] // priors
    return outputs.permute(0, 2, 3, 1).reshape(outputs.shape[0], -1, channels)


def _best(head: nn.Module, scores: Tensor, *factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, m) of a level's candidates, -1 for filling, their labels and priors' numbers."""
    cfg = head.test_cfg
    scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
    classes = scores.shape[-1]
    # levels of small pictures have fewer priors
    best, index = pad(scores.flatten(1), (0, cfg.nms_pre), value=-1.0).topk(cfg.nms_pre, dim=1)
    label = index % classes
    wanted = best > cfg.score_thr
    place = ((index - label) // classes).where(wanted, 0)
    for factor in factors:
        best = best * factor.flatten(1).sigmoid().gather(1, place)
    return best.where(wanted, -1.0), label, place


def _best_by_class(
    head: nn.Module, scores: Tensor, objectness: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_best`, of YOLOX: all places, each with its best class."""
    best, label = scores.sigmoid().max(-1)
    best = best * objectness.flatten(1).sigmoid()
    place = torch.arange(best.shape[1]).expand_as(best)
    return best.where(best >= head.test_cfg.score_thr, -1.0), label, place


def _decoded(
    head: nn.Module, priors: Tensor, deltas: Tensor, stride: int, resized: Resized
) -> Tensor:
    """Boxes (B, m, 4), in resized pixels, of priors (B, m, 2 or 4) and their outputs."""
    if isinstance(head, YOLOXHead):
        return head._bbox_decode(priors.flatten(0, 1), deltas.flatten(0, 1)).view_as(deltas)
    shape = (*priors.shape[:2], 4)
    priors, deltas = priors.flatten(0, 1), deltas.flatten(0, 1)
    if isinstance(head, GFLHead):
        priors, deltas = head.anchor_center(priors), head.integral(deltas) * stride
    return resized.clip(head.bbox_coder.decode(priors, deltas)).view(shape)
