"""The fast transforms beside MMDetection's own: the same boxes, pixels and random numbers."""

import random
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import Compose
from pycocotools import mask as mask_utils

from mmconvnext.data.polygons import FlatPolygons
from mmconvnext.data.transforms import (
    FastLoadAnnotations,
    FastPackDetInputs,
    FastRandomFlip,
    channels_first,
    in_order,
    rectangles,
)
from mmconvnext.errors import ConfigError

NUM_IMAGES = 12
SIZE = (60, 80)
TRIANGLE = [[10, 10, 50.5, 12, 30, 40]]


def plain(step: dict, poly2mask: bool) -> dict:
    """MMDetection's own transform in place of ours."""
    step = {**step, "type": step["type"].removeprefix("Fast")}
    if step["type"] == "LoadAnnotations":
        step["poly2mask"] = poly2mask
    return step


def samples(repo, coco_tiny, config: str, poly2mask: bool | None = None) -> list[tuple]:
    """What the training pipeline of a config gives, and the random number that would come next."""
    cfg = Config.fromfile(repo / "configs" / "_base_" / "datasets" / f"{config}.py")
    dataset = cfg.train_dataloader.dataset
    dataset.data_root, dataset.indices = str(coco_tiny), NUM_IMAGES
    if poly2mask is not None:
        dataset.pipeline = [plain(step, poly2mask) for step in dataset.pipeline]
    dataset = DATASETS.build(dataset)
    found = []
    for seed in range(2 * NUM_IMAGES):
        np.random.seed(seed)
        found.append((dataset[seed % NUM_IMAGES], np.random.random()))
    return found


def ious(ours, theirs) -> list[float]:
    pairs = zip(ours.to_ndarray().astype(bool), theirs.to_ndarray().astype(bool), strict=True)
    return [(a & b).sum() / max((a | b).sum(), 1) if (a | b).any() else 1.0 for a, b in pairs]


@pytest.mark.parametrize("config", ["coco_instance", "coco_instance_lsj"])
def test_the_pipelines_of_the_configs(repo, coco_tiny, config):
    overlaps = []
    ours, theirs = (samples(repo, coco_tiny, config, poly2mask) for poly2mask in (None, False))
    for (mine, my_next), (other, other_next) in zip(ours, theirs, strict=True):
        assert my_next == other_next
        assert torch.equal(mine["inputs"], other["inputs"])
        assert mine["inputs"].is_contiguous()
        a, b = mine["data_samples"], other["data_samples"]
        assert a.metainfo == b.metainfo
        assert torch.equal(a.gt_instances.labels, b.gt_instances.labels)
        torch.testing.assert_close(
            a.gt_instances.bboxes.tensor, b.gt_instances.bboxes.tensor, rtol=0, atol=1e-3
        )
        overlaps += ious(a.gt_instances.masks, b.gt_instances.masks)
    assert len(overlaps) > 100
    assert np.mean(overlaps) > 0.99


def test_the_boxes_are_those_of_bitmaps(repo, coco_tiny):
    ours, theirs = (samples(repo, coco_tiny, "coco_instance", masks) for masks in (None, True))
    for (mine, my_next), (other, other_next) in zip(ours, theirs, strict=True):
        assert my_next == other_next
        assert torch.equal(mine["inputs"], other["inputs"])
        boxes = [each["data_samples"].gt_instances.bboxes.tensor for each in (mine, other)]
        assert torch.equal(*boxes)


def test_crowds_are_cropped_with_the_image(repo, coco_tiny):
    """With poly2mask=False MMDetection loses them where boxes are taken anew from masks."""
    ours, theirs = (samples(repo, coco_tiny, "coco_instance_lsj", m) for m in (None, True))
    crowds = [
        [each["data_samples"].ignored_instances.bboxes.tensor for each in pair]
        for pair in zip([mine for mine, _ in ours], [other for other, _ in theirs], strict=True)
    ]
    assert sum(len(boxes) for boxes, _ in crowds) > 1
    for mine, other in crowds:
        torch.testing.assert_close(mine, other, rtol=0, atol=3)


def results(*masks) -> dict:
    """What a data set says of an image with one object for each mask; a dict is a crowd."""
    instances = [
        {"bbox": [10, 10, 50, 40], "bbox_label": 3, "ignore_flag": int(crowd), "mask": mask}
        for mask, crowd in masks
    ]
    return {"ori_shape": SIZE, "instances": instances}


def run_lengths(as_list: bool) -> dict:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[5:20, 30:60] = 1
    if not as_list:
        return {**mask_utils.encode(mask), "counts": mask_utils.encode(mask)["counts"].decode()}
    flat = mask.reshape(-1, order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": list(SIZE), "counts": np.diff([0, *ends, flat.size]).tolist()}


def load(transform, loaded: dict) -> dict:
    return transform(deepcopy(loaded))


def test_polygons_stay_polygons():
    loaded = results((TRIANGLE, False), (TRIANGLE * 2, False))
    ours = load(FastLoadAnnotations(with_mask=True), loaded)
    theirs = load(LoadAnnotations(with_mask=True), loaded)
    assert isinstance(ours["gt_masks"], FlatPolygons)
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())
    assert torch.equal(ours["gt_bboxes"].tensor, theirs["gt_bboxes"].tensor)


@pytest.mark.parametrize("as_list", [True, False])
def test_crowds_are_ignored(as_list):
    loaded = results((TRIANGLE, False), (run_lengths(as_list), True))
    ours = load(FastLoadAnnotations(with_mask=True), loaded)
    theirs = load(LoadAnnotations(with_mask=True), loaded)
    assert ours["gt_ignore_flags"].tolist() == theirs["gt_ignore_flags"].tolist() == [False, True]
    assert isinstance(ours["gt_masks"], FlatPolygons)
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())
    packed = FastPackDetInputs(meta_keys=())({**ours, "img": np.zeros((*SIZE, 3), np.uint8)})
    assert len(packed["data_samples"].gt_instances) == 1
    assert len(packed["data_samples"].ignored_instances) == 1


def test_rectangles_are_the_runs_of_columns():
    bitmap = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]], np.uint8)
    assert rectangles(bitmap).tolist() == [
        [0, 0, 1, 0, 1, 2, 0, 2],
        [1, 1, 2, 1, 2, 2, 1, 2],
        [2, 0, 3, 0, 3, 1, 2, 1],
        [2, 2, 3, 2, 3, 3, 2, 3],
    ]
    for value in (0, 1):
        even = FlatPolygons([rectangles(np.full(SIZE, value, np.uint8))], *SIZE)
        assert (even.to_ndarray() == value).all()


@pytest.mark.parametrize("as_list", [True, False])
def test_run_lengths_of_an_object_are_not_lost(as_list):
    """With poly2mask=False MMDetection ignores such an object."""
    loaded = results((TRIANGLE, False), (run_lengths(as_list), False), (run_lengths(False), True))
    ours = load(FastLoadAnnotations(with_mask=True), loaded)
    theirs = load(LoadAnnotations(with_mask=True), loaded)
    assert ours["gt_ignore_flags"].tolist() == [False, False, True]
    assert isinstance(ours["gt_masks"], BitmapMasks)
    assert np.array_equal(ours["gt_masks"].masks, theirs["gt_masks"].masks)


def test_broken_masks_are_ignored_as_before():
    no_size, line = {"counts": [3]}, [[1.0, 2, 3, 4]]
    loaded = results((TRIANGLE, False), (line, False), ([], False), (no_size, False))
    ours = load(FastLoadAnnotations(with_mask=True), loaded)
    theirs = load(LoadAnnotations(with_mask=True), loaded)
    flags = [False, True, True, True]
    assert ours["gt_ignore_flags"].tolist() == theirs["gt_ignore_flags"].tolist() == flags
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())


def test_boxes_alone():
    loaded = results((TRIANGLE, False))
    del loaded["instances"][0]["mask"]
    assert "gt_masks" not in load(FastLoadAnnotations(), loaded)
    for kind in (FastLoadAnnotations, LoadAnnotations):
        with pytest.raises(KeyError, match="mask"):
            load(kind(with_mask=True), loaded)


def test_no_objects():
    ours = load(FastLoadAnnotations(with_mask=True), results())
    assert len(ours["gt_masks"]) == len(ours["gt_bboxes"]) == 0


def test_poly2mask_is_refused():
    with pytest.raises(ConfigError, match=r"has no poly2mask \(given: True\).*type='LoadAnno"):
        TRANSFORMS.build({"type": "FastLoadAnnotations", "with_mask": True, "poly2mask": True})


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 5, 1), (7, 5)])
def test_flip(direction, shape, dtype):
    image = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    loaded = load(FastLoadAnnotations(with_mask=True), results((TRIANGLE, False)))
    flipped = []
    for kind in (FastRandomFlip, RandomFlip):
        np.random.seed(0)
        flipped.append(kind(prob=1.0, direction=direction)({**deepcopy(loaded), "img": image}))
    ours, theirs = flipped
    assert np.array_equal(ours["img"], theirs["img"])
    assert ours["img"].dtype == dtype
    assert ours["img"].flags.c_contiguous
    assert torch.equal(ours["gt_bboxes"].tensor, theirs["gt_bboxes"].tensor)
    assert ours["flip_direction"] == theirs["flip_direction"] == direction


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, np.float16, bool])
@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 1), (9, 12, 3), (9, 12, 5)])
def test_channels_first(shape, dtype):
    """OpenCV does not take, or changes, some of these types."""
    image = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    flipped = (image[:, ::-1], image[::-1], image[1:, ::-1][::-1], image[::-2, ::2])
    for view in (image, image[2:7, 3:], image.swapaxes(0, 1), *flipped):
        expected = PackDetInputs(meta_keys=())({"img": view})["inputs"]
        tensor = channels_first(view)
        assert tensor.is_contiguous()
        assert torch.equal(tensor, expected)
        assert FastPackDetInputs(meta_keys=())({"img": view})["inputs"].equal(expected)
    tensor = channels_first(image)
    tensor.zero_()  # memory of its own
    assert image.any()


def test_an_image_in_order_is_not_copied():
    image = np.zeros((4, 5, 3), np.uint8)
    assert in_order(image) is image


def test_a_pipeline_of_its_own(tmp_path):
    """From a file, beside MMDetection's transforms of other kinds."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((*SIZE, 3), 7, np.uint8))
    pipeline = Compose(
        [
            {"type": "LoadImageFromFile"},
            {"type": "FastLoadAnnotations", "with_bbox": True, "with_mask": True},
            {"type": "Resize", "scale": (150, 150), "keep_ratio": True},
            {"type": "Pad", "size": (200, 200)},
            {"type": "FastPackDetInputs"},
        ]
    )
    packed = pipeline({"img_path": str(tmp_path / "a.png"), **results((TRIANGLE, False))})
    assert packed["inputs"].shape == (3, 200, 200)


def mixed(coco_tiny, step: dict, load: str) -> dict:
    """An image, and another one that a transform of MMDetection mixes into it."""
    dataset = DATASETS.build(
        {
            "type": "MultiImageMixDataset",
            "dataset": {
                "type": "CocoDataset",
                "data_root": str(coco_tiny),
                "ann_file": "annotations/instances_train2017.json",
                "data_prefix": {"img": "train2017/"},
                "indices": 4,
                "pipeline": [
                    {"type": "LoadImageFromFile"},
                    {"type": load, "with_bbox": True, "with_mask": True},
                    {"type": "Resize", "scale": (200, 160), "keep_ratio": False},
                ],
            },
            "pipeline": [
                step,
                {"type": "FastRandomFlip", "prob": 1.0},
                {"type": "FastPackDetInputs", "meta_keys": ()},
            ],
        }
    )
    random.seed(0)
    np.random.seed(0)
    return dataset[0]


@pytest.mark.parametrize("kind", ["CachedMosaic", "CachedMixUp"])
def test_mixing_polygons(coco_tiny, kind):
    step = {"type": kind, "img_scale": (160, 160)}
    objects = mixed(coco_tiny, step, "FastLoadAnnotations")["data_samples"].gt_instances
    assert len(objects.masks.to_ndarray()) == len(objects.bboxes) > 1


def test_mixing_bitmaps(coco_tiny):
    """CopyPaste gives images of int64."""
    step = {"type": "CopyPaste", "selected": False}
    packed = mixed(coco_tiny, step, "LoadAnnotations")
    assert packed["inputs"].shape == (3, 160, 200)
    assert packed["inputs"].dtype == torch.int64
    assert packed["inputs"].float().std() > 10
    with pytest.raises(TypeError, match="needs LoadAnnotations in place of FastLoadAnnotations"):
        mixed(coco_tiny, step, "FastLoadAnnotations")
