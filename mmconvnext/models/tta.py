"""Test-time augmentation of instance segmentation."""

from __future__ import annotations

import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

# Which axes of a mask (N, H, W) each direction of MMDetection's RandomFlip mirrors.
FLIPPED_AXES = {"horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """MMDetection's test-time augmentation for boxes, extended to masks.

    Boxes of all views are merged by non-maximum suppression, as in ``DetTTAModel``; each box that
    survives keeps the mask of the view that it comes from, mirrored back.
    """

    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict each view and merge; of ``data``, each value is a list of views of all images."""
        views = (dict(zip(data, view, strict=True)) for view in zip(*data.values(), strict=True))
        predictions = [self._predict(view) for view in views]
        return self.merge_preds(list(zip(*predictions, strict=True)))

    def _predict(self, view: dict[str, list]) -> list[DetDataSample]:
        # MMDetection's cascade heads take a mirrored sample for a cue to mirror its masks back, and
        # fail with "step must be greater than zero".
        flips = [sample.metainfo.get("flip", False) for sample in view["data_samples"]]
        for sample in view["data_samples"]:
            sample.set_metainfo({"flip": False})
        predictions = self.module.test_step(view)
        for sample, flip in zip(predictions, flips, strict=True):
            sample.set_metainfo({"flip": flip})
        return predictions

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """Merge the predictions of an image's views: at most ``max_per_img``, by falling score.

        Boxes (n, 4) are xyxy in pixels of the original image, masks (n, H, W) in those of the view.
        """
        views = [sample.pred_instances for sample in data_samples]
        if "masks" not in views[0]:
            return super()._merge_single_sample(data_samples)
        boxes, scores, labels = (
            [view[key] for view in views] for key in ("bboxes", "scores", "labels")
        )
        metas = [sample.metainfo for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes(boxes, scores, metas)
        merged = data_samples[0]
        if len(boxes) == 0:
            return merged
        labels = torch.cat(labels)
        masks = torch.cat([_unflip(sample) for sample in data_samples])
        most = self.tta_cfg["max_per_img"]
        dets, keep = (t[:most] for t in batched_nms(boxes, scores, labels, self.tta_cfg["nms"]))
        merged.pred_instances = InstanceData(
            bboxes=dets[:, :4], scores=dets[:, 4], labels=labels[keep], masks=masks[keep]
        )
        return merged


def _unflip(sample: DetDataSample) -> torch.Tensor:
    masks = sample.pred_instances.masks
    if not sample.metainfo.get("flip", False):
        return masks
    return masks.flip(FLIPPED_AXES[sample.metainfo["flip_direction"]])
