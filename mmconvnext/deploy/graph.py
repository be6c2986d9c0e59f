"""MMDetection's two-stage detectors as modules of tensors alone, from a picture to its masks.

What the heads know, layers, anchors, coders and test settings, is asked of them. Shapes do not
depend on what is found: lists are filled up, with a score of -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.ops import nms, roi_align

from mmconvnext.deploy.resize import Resized, normalised

FILLING = 2  # regions without an object, in each picture


class TwoStageGraph(nn.Module):
    """Faster, Mask or Cascade R-CNN from pictures of one size to boxes, scores, labels and masks.

    Args:
        detector: built by MMDetection, with the settings that :mod:`mmconvnext.deploy.settings`
            allows.
        resize: settings of the test pipeline's ``Resize``.
        pasted: whether masks are of the pictures' size.

    Attributes:
        size: the height and width that all pictures have; None for any.
    """

    size: tuple[int, int] | None = None

    def __init__(
        self, detector: nn.Module, resize: Mapping[str, Any], pasted: bool = False
    ) -> None:
        super().__init__()
        self.detector, self.resize, self.pasted = detector, resize, pasted
        roi = detector.roi_head
        self.stages = listed(roi.bbox_head)
        self.extractors = listed(roi.bbox_roi_extractor)
        if roi.with_mask:
            extractor = (
                roi.bbox_roi_extractor if roi.share_roi_extractor else roi.mask_roi_extractor
            )
            self.mask_heads, self.mask_extractor = listed(roi.mask_head), listed(extractor)[0]

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            pictures: (B, H, W, 3), uint8 RGB.

        Returns:
            Boxes (B, N, 4), xyxy in pixels of the pictures; scores (B, N), best first, with -1 from
            the end of the detections on; labels (B, N); and, of detectors with a mask head,
            probabilities (B, N, h, w) of masks in their boxes, or with ``pasted`` masks
            (B, N, H, W), bool.
        """
        preprocessor = self.detector.data_preprocessor
        resized = Resized(pictures, self.resize, preprocessor.pad_size_divisor or 1)
        features = self.detector.extract_feat(normalised(resized, preprocessor))
        proposals, valid = self._proposals(features, resized)
        canvas = Canvas(features, self.extractors[0].featmap_strides)
        boxes, scores = self._classified(canvas, proposals, resized)
        cfg, classes = self.detector.roi_head.test_cfg, scores.shape[-1]
        scores = scores.where(valid[..., None] & (scores > cfg.score_thr), -1.0).flatten(1)
        labels = torch.arange(classes).repeat(valid.shape[1]).expand_as(scores)
        boxes = boxes.expand(-1, -1, classes, -1).flatten(1, 2)
        boxes, scores, labels = detections(
            boxes, scores, labels, cfg.nms.iou_threshold, cfg.max_per_img
        )
        found = scores >= 0
        masks = ()
        if self.detector.roi_head.with_mask:
            masks = (self._masks(canvas, boxes, labels).where(found[..., None, None], 0.0),)
        boxes = (boxes / resized.factors).where(found[..., None], 0.0)
        if self.pasted and masks:
            masks = (self._pasted(masks[0], boxes, pictures.shape[1:3]),)
        return boxes, scores, labels.where(found, -1), *masks

    def _proposals(self, features: Sequence[Tensor], resized: Resized) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) of the RPN, in resized pixels, and which are no filling (B, P)."""
        head = self.detector.rpn_head
        cfg, found = head.test_cfg, []
        scores, deltas = head(features)
        sizes = [score.shape[-2:] for score in scores]
        priors = head.prior_generator.grid_priors(sizes, device=scores[0].device)
        for level in zip(scores, deltas, priors, strict=True):
            found.append(_best(head, *level, cfg.nms_pre))
        score, delta, prior = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        boxes = resized.clip(head.bbox_coder.decode(prior.flatten(0, 1), delta.flatten(0, 1)))
        boxes = boxes.view_as(delta)
        extent = boxes[..., 2:] - boxes[..., :2]
        score = score.where((extent > cfg.get("min_bbox_size", -1)).all(-1), -1.0)
        levels = torch.arange(len(found)).repeat_interleave(cfg.nms_pre)
        groups = levels + len(found) * torch.arange(score.shape[0])[:, None]
        kept = suppressed(
            boxes.flatten(0, 1), score.flatten(), groups.flatten(), cfg.nms.iou_threshold
        )
        most = min(cfg.max_per_img, score.shape[1])
        best, index = kept.view_as(score).topk(most, dim=1)
        return boxes.gather(1, index[..., None].expand(-1, -1, 4)), best >= 0

    def _classified(self, canvas: Canvas, boxes: Tensor, resized: Resized) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 1 or C, 4) and their scores (B, P, C) by all stages."""
        sums, (batch, count) = 0.0, boxes.shape[:2]
        for number, (head, extractor) in enumerate(zip(self.stages, self.extractors, strict=True)):
            rois = _with_batch(boxes)
            logits, deltas = head(canvas.align(rois, extractor))
            sums = sums + logits
            if number + 1 < len(self.stages):
                labels = logits[:, :-1].argmax(1)
                refined = head.regress_by_class(rois[:, 1:], labels, deltas, {"img_shape": None})
                boxes = resized.clip(refined).view(batch, count, 4)
        scores = (sums / len(self.stages)).softmax(-1)[:, :-1]
        classes = deltas.shape[1] // 4
        decoded = head.bbox_coder.decode(
            rois[:, None, 1:].expand(-1, classes, -1).reshape(-1, 4), deltas.reshape(-1, 4)
        )
        return resized.clip(decoded).view(batch, count, classes, 4), scores.view(batch, count, -1)

    def _masks(self, canvas: Canvas, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (B, N, h, w) in the boxes: the mean of all stages' mask heads."""
        features = canvas.align(_with_batch(boxes), self.mask_extractor)
        sums = 0.0
        for head in self.mask_heads:
            masks = head(features)
            index = torch.zeros_like(labels) if masks.shape[1] == 1 else labels
            index = index.view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[-2:])
            sums = sums + masks.gather(1, index).sigmoid()
        masks = sums / len(self.mask_heads)
        return masks.view(*labels.shape, *masks.shape[-2:])

    def _pasted(self, masks: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
        """Masks (B, N, H, W): probabilities stretched to their boxes, as MMDetection does."""
        threshold = self.detector.roi_head.test_cfg.mask_thr_binary
        weights = []
        for axis in (0, 1):
            low, high = boxes[..., axis, None], boxes[..., axis + 2, None]
            cells, pixels = masks.shape[3 - axis], torch.arange(size[1 - axis])
            positions = (pixels + 0.5 - low) / (high - low) * cells - 0.5
            positions = positions.where(high > low, (cells - 1) / 2)  # as paste_masks
            touched = (pixels >= low.floor() - 1) & (pixels < high.ceil() + 1)
            distances = (positions[..., None] - torch.arange(cells)).abs()
            weights.append((1 - distances).clamp(min=0) * touched[..., None])
        columns, rows = weights
        return rows @ masks @ columns.transpose(2, 3) >= threshold


class Canvas:
    """Feature maps of all levels side by side, so that one RoIAlign does for all of them.

    Each has a border like its outermost cells, which is what RoIAlign samples there.

    Args:
        features: (B, C, h, w), of the finest level first.
        strides: of the levels that regions are taken from.
    """

    def __init__(self, features: Sequence[Tensor], strides: Sequence[int]) -> None:
        height, left, parts, offsets = features[0].shape[2], 1, [], []
        for feature, _ in zip(features, strides, strict=False):
            below = height - feature.shape[2]
            bordered = pad(feature, (1, 1, 1, 1), mode="replicate")
            parts.append(pad(bordered, (0, 0, 0, below)))
            offsets.append(left)
            left = left + feature.shape[3] + 2
        self.map = torch.cat(parts, 3)
        self.strides, self.offsets = strides, offsets

    def align(self, rois: Tensor, extractor: nn.Module) -> Tensor:
        """Features (n, C, h, w) of regions (n, 5): picture and box, as an extractor has them."""
        level = extractor.map_roi_levels(rois, len(self.strides))
        stride = torch.tensor([float(s) for s in self.strides])[level]
        left = torch.stack([torch.scalar_tensor(o, dtype=torch.float32) for o in self.offsets])[
            level
        ]
        shift = torch.stack([left, torch.ones_like(left)] * 2, 1)
        boxes = rois[:, 1:] / stride[:, None] + shift
        layer = extractor.roi_layers[0]
        return roi_align(
            self.map,
            torch.cat([rois[:, :1], boxes], 1),
            layer.output_size,
            sampling_ratio=layer.sampling_ratio,
            aligned=layer.aligned,
        )


def _with_batch(boxes: Tensor) -> Tensor:
    """Boxes (B, P, 4) as regions (B * P, 5): with the number of their picture."""
    picture = torch.arange(boxes.shape[0], dtype=boxes.dtype)[:, None].expand(-1, boxes.shape[1])
    return torch.cat([picture.reshape(-1, 1), boxes.reshape(-1, 4)], 1)


def _best(head: nn.Module, scores: Tensor, deltas: Tensor, priors: Tensor, most: int) -> tuple:
    """The anchors of a level with the best scores: scores (B, most), deltas and priors."""
    batch = scores.shape[0]
    scores = scores.permute(0, 2, 3, 1).reshape(batch, -1, head.cls_out_channels)
    scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
    # levels of small pictures have fewer anchors
    scores = pad(scores.flatten(1), (0, most), value=-1.0)
    deltas = pad(deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4), (0, 0, 0, most))
    priors = pad(priors, (0, 0, 0, most))
    best, index = scores.topk(most, dim=1)
    return best, deltas.gather(1, index[..., None].expand(-1, -1, 4)), priors[index]


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes (B, N, 4), scores and labels after non-maximum suppression by class.

    Args:
        boxes: (B, n, 4).
        scores: (B, n), less than 0 where there is no candidate.
        labels: (B, n).
        threshold: from which IoU on boxes are suppressed.
        most: N at the most; None for n.
    """
    # exporters reckon with lists of two and more
    boxes = pad(boxes, (0, 0, 0, FILLING))
    candidates = pad(scores >= 0, (0, FILLING), value=True)
    scores, labels = pad(scores, (0, FILLING), value=-1.0), pad(labels, (0, FILLING))
    image, index = candidates.nonzero(as_tuple=True)
    groups = labels[image, index] + (labels.max() + 1) * image
    kept = suppressed(boxes[image, index], scores[image, index], groups, threshold)
    dense = torch.full_like(scores, -1.0).index_put((image, index), kept)
    if most is None:
        best, index = dense.sort(dim=1, descending=True)
    else:
        best, index = dense.topk(min(most, dense.shape[1]), dim=1)
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)), best, labels.gather(1, index)


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Scores (n), with -1 where a better box (n, 4) of the same group overlaps.

    Groups lie apart by the largest coordinate, as in MMCV's ``batched_nms``.
    """
    apart = pad(boxes.flatten(), (0, 1)).max() + 1
    kept = nms(boxes + (groups.to(boxes) * apart)[:, None], scores, threshold)
    flags = torch.zeros_like(scores).index_fill(0, kept, 1.0)
    return scores.where(flags > 0, -1.0)


def listed(module: nn.Module) -> list[nn.Module]:
    """The stages of a cascade, or the one of another detector."""
    return [*module] if isinstance(module, nn.ModuleList) else [module]
