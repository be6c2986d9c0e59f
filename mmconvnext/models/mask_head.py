"""MMDetection's mask head with a faster way from small masks to those of the image."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from torch import Tensor

from mmconvnext.crops import paste


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

    See :func:`mmconvnext.crops.paste`.

    Args:
        masks: probabilities (n, h, w).
        boxes: (n, 4), xyxy in pixels of the image.
        size: height and width of the image, and of the boolean masks returned.
        threshold: from which probability on a pixel belongs to the mask.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    arrays = masks.detach().float().numpy(), boxes.tolist(), pasted.numpy()
    for mask, box, image in zip(*arrays, strict=True):
        left, top, bitmap = paste(mask, box, size, threshold)
        image[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    return pasted
