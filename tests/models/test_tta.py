import mmcv
import numpy as np
import pytest
import torch
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from mmconvnext.models.tta import InstanceTTAModel

SHAPE = (8, 10)
KEYS = ("bboxes", "scores", "labels", "masks")


class Detector(BaseModel):
    def forward(self, *_args, **_kwargs):
        raise AssertionError("merging asks the detector for nothing")

    def test_step(self, data):
        """Samples come with what is found; MMDetection's cascade fails at mirrored ones."""
        assert not any(sample.metainfo["flip"] for sample in data["data_samples"])
        return data["data_samples"]


def tta(max_per_img=100, kind=InstanceTTAModel):
    cfg = ConfigDict(nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=max_per_img)
    return kind(tta_cfg=cfg, module=Detector())


def corner(top, left) -> np.ndarray:
    """A mask (8, 10) of 10 pixels in 3 x 4 that no mirroring maps onto itself."""
    mask = np.zeros(SHAPE, bool)
    mask[top : top + 3, left : left + 4] = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]
    return mask


def extent(mask) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def view(objects, direction=None, masks=True):
    """What a detector finds in an image mirrored by MMCV: of each, mask as it is, score, label."""
    seen = [mmcv.imflip(m.astype(np.uint8), direction) if direction else m for m, _, _ in objects]
    found = InstanceData(
        bboxes=torch.tensor([extent(m) for m in seen], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in objects]),
        labels=torch.tensor([label for _, _, label in objects], dtype=torch.long),
    )
    if masks:
        found.masks = torch.tensor(np.array(seen, dtype=bool).reshape(-1, *SHAPE))
    flip = {"flip": direction is not None, "flip_direction": direction}
    return DetDataSample(metainfo={"ori_shape": SHAPE, **flip}, pred_instances=found)


def merge(model, *views):
    (merged,) = model.merge_preds([list(views)])
    return merged.pred_instances


def check(found, *expected):
    """Compare with the mask, score and label of each object that should be left, in order."""
    assert set(found.keys()) == set(KEYS)
    assert found.bboxes.tolist() == [extent(mask) for mask, _, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for _, score, _ in expected]))
    assert found.labels.tolist() == [label for _, _, label in expected]
    np.testing.assert_array_equal(found.masks.numpy(), np.array([m for m, _, _ in expected]))


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_masks_and_boxes_are_mirrored_back(direction):
    objects = [(corner(0, 1), 0.9, 0), (corner(5, 3), 0.8, 2)]
    mirrored = view(objects, direction)
    assert mirrored.pred_instances.bboxes[0].tolist() != extent(objects[0][0])
    check(merge(tta(), view([]), mirrored), *objects)


def test_each_image_is_merged_and_the_detector_is_not_told_that_a_view_is_mirrored():
    objects = [(corner(0, 1), 0.9, 0), (corner(5, 3), 0.8, 2)]
    image = torch.zeros(3, *SHAPE)
    views = [[view([]), view(objects[:1])], [view(objects, "horizontal"), view([], "horizontal")]]
    first, second = tta().test_step({"inputs": [[image] * 2] * 2, "data_samples": views})
    check(first.pred_instances, *objects)
    check(second.pred_instances, objects[0])


def test_a_box_keeps_the_mask_of_the_view_that_it_comes_from():
    first, second = corner(0, 1), corner(5, 3)
    first_box, second_box = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first_box[0:3, 1:5] = second_box[5:8, 3:7] = True
    plain = view([(first, 0.9, 0), (second, 0.4, 1)])
    mirrored = view([(first_box, 0.5, 0), (second_box, 0.7, 1)], "horizontal")
    check(merge(tta(), plain, mirrored), (first, 0.9, 0), (second_box, 0.7, 1))


def test_boxes_of_other_classes_do_not_suppress():
    mask = corner(2, 2)
    found = merge(tta(), view([(mask, 0.3, 0)]), view([(mask, 0.6, 1)], "vertical"))
    check(found, (mask, 0.6, 1), (mask, 0.3, 0))


def test_without_boxes_nothing_is_left():
    found = merge(tta(), view([]), view([], "horizontal"))
    assert set(found.keys()) == set(KEYS)
    assert found.bboxes.shape == (0, 4)
    assert found.masks.shape == (0, *SHAPE)


def test_the_best_are_kept_with_their_masks():
    weak, strong, middle = corner(0, 1), corner(5, 3), corner(0, 6)
    plain = view([(weak, 0.2, 0), (strong, 0.9, 0)])
    found = merge(tta(max_per_img=2), plain, view([(middle, 0.5, 0)], "diagonal"))
    check(found, (strong, 0.9, 0), (middle, 0.5, 0))


def test_detectors_without_masks_are_merged_as_mmdetection_does():
    objects = [(corner(0, 1), 0.9, 0), (corner(5, 3), 0.4, 1)]

    found, expected = (
        merge(model, view(objects, masks=False), view(objects[::-1], "horizontal", masks=False))
        for model in (tta(), tta(kind=DetTTAModel))
    )
    assert set(found.keys()) == {"bboxes", "scores", "labels"}
    assert found.bboxes.tolist() == [extent(mask) for mask, _, _ in objects]
    for key in found.keys():  # noqa: SIM118 (InstanceData is no dict)
        torch.testing.assert_close(found[key], expected[key])
