"""The mask head that pastes by matrix products, compared with MMDetection's."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import ConfigDict
from torch import Tensor

from mmconvnext.models import mask_head
from mmconvnext.models.mask_head import FastFCNMaskHead, paste_masks

COUNT, CLASSES = 60, 3
META = {"ori_shape": (90, 130), "scale_factor": (1.6, 1.5)}  # x, y
BINARY = ConfigDict(mask_thr_binary=0.5)


def logits(classes: int = CLASSES) -> Tensor:
    """Smooth masks, as a network predicts them."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(COUNT, classes, 7, 7, generator=generator) * 5
    return torch.nn.functional.interpolate(coarse, size=28, mode="bilinear")


def boxes() -> Tensor:
    """In the resized image: small and large, within it and across its edges."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(COUNT, 2, generator=generator) * torch.tensor([208.0, 135.0])
    sizes = torch.rand(COUNT, 2, generator=generator).square() * 150 + 0.5
    found = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    found[: COUNT // 2, 0::2] = found[: COUNT // 2, 0::2].clamp(0, 208)
    found[: COUNT // 2, 1::2] = found[: COUNT // 2, 1::2].clamp(0, 135)
    return found


def predict(head: FCNMaskHead, cfg: ConfigDict = BINARY, **options) -> tuple[Tensor, Tensor]:
    """The pasted masks, and the boxes as the head left them."""
    found = boxes()
    labels = torch.arange(COUNT) % CLASSES
    masks = logits(1 if head.class_agnostic else CLASSES)
    return head._predict_by_feat_single(masks, found, labels, META, cfg, **options), found


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("class_agnostic", [True, False])
def test_equals_mmdetections(class_agnostic, rescale):
    options = {"num_convs": 1, "num_classes": CLASSES, "class_agnostic": class_agnostic}
    ours, our_boxes = predict(FastFCNMaskHead(**options), rescale=rescale)
    theirs, their_boxes = predict(FCNMaskHead(**options), rescale=rescale)
    assert ours.shape == theirs.shape == (COUNT, *((90, 130) if rescale else (135, 208)))
    assert ours.dtype == theirs.dtype == torch.bool
    assert theirs.sum() > 10_000
    assert (ours != theirs).sum() <= 1e-4 * theirs.sum()
    assert torch.equal(our_boxes, their_boxes)


def test_masks_that_are_not_binary_are_mmdetections(monkeypatch):
    monkeypatch.setattr(mask_head, "paste_masks", None)
    options = {"num_convs": 1, "num_classes": CLASSES}
    cfg = ConfigDict(mask_thr_binary=-1)
    ours, theirs = (predict(kind(**options), cfg)[0] for kind in (FastFCNMaskHead, FCNMaskHead))
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("box", [[5, 5, 5, 20], [5, 5, float("nan"), 9], [-9, -9, -5, -5]], ids=str)
def test_boxes_of_nothing(box):
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]).float(), (30, 40), 0.5)
    assert pasted.shape == (1, 30, 40)
    assert not pasted[:, :, 10:].any()


def test_no_masks():
    pasted = paste_masks(torch.empty(0, 28, 28), torch.empty(0, 4), (30, 40), 0.5)
    assert pasted.shape == (0, 30, 40)
