"""MMDetection's mask head with a faster way from small masks to those of the image."""

from __future__ import annotations

import math

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class FastFCNMaskHead(FCNMaskHead):
    """``FCNMaskHead`` that pastes masks by matrix products on the CPU.

    Same arguments, parameters and results as MMDetection's, but for pixels whose probability is
    the threshold to rounding. On other devices, and for masks that are not to be binary,
    MMDetection's own code runs.
    """

    def _predict_by_feat_single(
        self, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=False, activate_map=False
    ) -> Tensor:
        threshold = rcnn_test_cfg.mask_thr_binary
        if bboxes.device.type != "cpu" or activate_map or threshold < 0:
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        size, scale = img_meta["ori_shape"][:2], img_meta["scale_factor"]
        if rescale:  # in place: MMDetection takes the boxes' rescaling from here
            bboxes /= bboxes.new_tensor(scale).repeat(2)
        else:
            size = round(size[0] * scale[1]), round(size[1] * scale[0])
        index = torch.zeros_like(labels) if self.class_agnostic else labels
        masks = mask_preds[torch.arange(len(labels)), index].sigmoid()
        return paste_masks(masks, bboxes, size, threshold)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Resize each mask bilinearly to its box, put it into an image, and binarise it.

    What is sampled at the pixels' centres, with zeros around the mask, is separable: a matrix of
    weights along y times the mask times one along x.

    Args:
        masks: probabilities (n, h, w).
        boxes: (n, 4), xyxy in pixels of the image.
        size: height and width of the image, and of the boolean masks returned.
        threshold: from which probability on a pixel belongs to the mask.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, box, image in zip(masks.float(), boxes.tolist(), pasted, strict=True):
        left, top, right, bottom = box
        rows, columns = _touched(top, bottom, size[0]), _touched(left, right, size[1])
        if rows and columns:
            weights_y = _weights(rows, top, bottom, mask.shape[0])
            weights_x = _weights(columns, left, right, mask.shape[1])
            part = weights_y @ mask @ weights_x.t()
            image[rows.start : rows.stop, columns.start : columns.stop] = part >= threshold
    return pasted


def _touched(low: float, high: float, limit: int) -> range:
    """The pixels that a box may touch, along one axis."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return range(0)
    return range(max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, limit))


def _weights(pixels: range, low: float, high: float, cells: int) -> Tensor:
    """The bilinear weights (pixels, cells) of a mask stretched from ``low`` to ``high``."""
    centres = torch.arange(pixels.start, pixels.stop) + 0.5
    if high > low:
        positions = (centres - low) / (high - low) * cells - 0.5
    else:  # as MMDetection: of a box without extent, the middle of the mask
        positions = torch.full_like(centres, (cells - 1) / 2)
    distances = (positions[:, None] - torch.arange(cells)).abs()
    return (1 - distances).clamp(min=0)
