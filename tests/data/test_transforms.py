"""The fast transforms beside MMDetection's own: the same boxes, pixels and random numbers."""

import pickle
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config

from mmconvnext.data.masks import run_lengths as code_of
from mmconvnext.data.objects import read_counts
from mmconvnext.data.transforms import (
    FastLoadAnnotations,
    FastPackDetInputs,
    FastPolygonMasks,
    FastRandomFlip,
    channels_first,
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


def ious(ours, theirs) -> np.ndarray:
    a, b = (masks.to_ndarray().astype(bool) for masks in (ours, theirs))
    union = (a | b).sum((1, 2))
    return np.where(union == 0, 1, (a & b).sum((1, 2)) / np.maximum(union, 1))


@pytest.mark.parametrize(
    ("config", "poly2mask"),
    [("coco_instance", False), ("coco_instance_lsj", False), ("coco_instance", True)],
)
def test_the_pipelines_of_the_configs(repo, coco_tiny, config, poly2mask):
    ours, theirs = (samples(repo, coco_tiny, config, each) for each in (None, poly2mask))
    objects = 0
    for (mine, my_next), (other, other_next) in zip(ours, theirs, strict=True):
        assert my_next == other_next
        assert torch.equal(mine["inputs"], other["inputs"])
        assert mine["inputs"].is_contiguous()
        a, b = mine["data_samples"], other["data_samples"]
        assert a.metainfo == b.metainfo
        assert torch.equal(a.gt_instances.labels, b.gt_instances.labels)
        assert torch.equal(a.gt_instances.bboxes.tensor, b.gt_instances.bboxes.tensor)
        # bitmaps are rounded to pixels before they are augmented
        assert poly2mask or ious(a.gt_instances.masks, b.gt_instances.masks).mean() > 0.999
        objects += len(a.gt_instances)
    assert objects > 100


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
    mask = np.zeros(SIZE, np.uint8)
    mask[5:20, 30:60] = 1
    code = code_of(mask)
    return {**code, "counts": read_counts(code["counts"])} if as_list else code


def load(transform, loaded: dict) -> dict:
    return transform(deepcopy(loaded))


def load_both(*masks) -> tuple[dict, dict]:
    """What ours and MMDetection's make of these masks."""
    kinds = (FastLoadAnnotations, LoadAnnotations)
    return tuple(load(kind(with_mask=True), results(*masks)) for kind in kinds)


def test_polygons_stay_polygons():
    ours, theirs = load_both((TRIANGLE, False), (TRIANGLE * 2, False))
    assert isinstance(ours["gt_masks"], FastPolygonMasks)
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())
    assert torch.equal(ours["gt_bboxes"].tensor, theirs["gt_bboxes"].tensor)


@pytest.mark.parametrize("as_list", [True, False])
def test_crowds_are_ignored(as_list):
    ours, theirs = load_both((TRIANGLE, False), (run_lengths(as_list), True))
    assert ours["gt_ignore_flags"].tolist() == theirs["gt_ignore_flags"].tolist() == [False, True]
    assert isinstance(ours["gt_masks"], FastPolygonMasks)
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())
    packed = FastPackDetInputs(meta_keys=())({**ours, "img": np.zeros((*SIZE, 3), np.uint8)})
    assert len(packed["data_samples"].gt_instances) == 1
    assert len(packed["data_samples"].ignored_instances) == 1


@pytest.mark.parametrize("as_list", [True, False])
def test_run_lengths_of_an_object_are_not_lost(as_list):
    """With poly2mask=False MMDetection ignores such an object."""
    crowd = (run_lengths(False), True)
    ours, theirs = load_both((TRIANGLE, False), (run_lengths(as_list), False), crowd)
    assert ours["gt_ignore_flags"].tolist() == [False, False, True]
    assert isinstance(ours["gt_masks"], BitmapMasks)
    assert np.array_equal(ours["gt_masks"].masks, theirs["gt_masks"].masks)


def test_broken_masks_are_ignored_as_before():
    no_size, line = {"counts": [3]}, [[1.0, 2, 3, 4]]
    ours, theirs = load_both((TRIANGLE, False), (line, False), ([], False), (no_size, False))
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


def mixed(coco_tiny, step: dict, load: str) -> dict:
    """An image, and another one that a transform of MMDetection mixes into it."""
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type=load, with_bbox=True, with_mask=True),
        dict(type="Resize", scale=(200, 160), keep_ratio=False),
    ]
    files = dict(ann_file="annotations/instances_train2017.json", data_prefix={"img": "train2017/"})
    data = dict(type="CocoDataset", data_root=str(coco_tiny), indices=4, pipeline=pipeline, **files)
    after = [dict(type="FastRandomFlip", prob=1.0), dict(type="FastPackDetInputs", meta_keys=())]
    dataset = dict(type="MultiImageMixDataset", dataset=data, pipeline=[step, *after])
    random.seed(0)
    np.random.seed(0)
    return DATASETS.build(dataset)[0]


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


# In a window from (20, 30) to (110, 90): an L whose long bar is above it and whose foot reaches
# into it, one that is outside, one that touches it from three sides, one around it, one
# within, and one of two parts of which one is outside.
WINDOW = np.array([20, 30, 110, 90])
AROUND_WINDOW = [
    [[0, 0, 100, 0, 100, 60, 90, 60, 90, 10, 0, 10]],
    [[0, 0, 100, 0, 100, 10, 0, 10]],
    [[10, 20, 114, 20, 114, 70, 110, 70, 110, 30, 20, 30, 20, 80, 10, 80]],
    [[-50, -50, 300, -50, 300, 300, -50, 300]],
    [[30, 40, 50, 40, 50, 70]],
    [[30, 40, 50, 40, 50, 70], [0, 0, 9, 0, 9, 9]],
]
STEPS = {
    "crop": lambda masks: masks,
    "pad": lambda masks: masks.pad((80, 100)),
    "resize, flip": lambda masks: masks.resize((120, 180)).flip("diagonal"),
    "rescale": lambda masks: masks.rescale(1.5),
    "crop again": lambda masks: masks.flip().crop(np.array([4, 0, 180, 50])),
    "cat": lambda masks: masks.cat([masks, masks.flip()]),
    "some": lambda masks: masks[np.array([4, 0, 0, 1])],
}


@pytest.mark.parametrize("step", STEPS)
def test_polygons_after_a_crop(step):
    masks = [[np.array(each, dtype=float) for each in mask] for mask in AROUND_WINDOW]
    fast, plain_ = (kind(masks, 90, 120) for kind in (FastPolygonMasks, PolygonMasks))
    bitmaps = BitmapMasks(plain_.to_ndarray().astype(np.uint8), 90, 120)
    ours, theirs, pixels = (STEPS[step](each.crop(WINDOW)) for each in (fast, plain_, bitmaps))
    expanded = [each.expand(700, 900, 7, 20) for each in (ours, pixels)]  # PolygonMasks has none
    assert ious(*expanded).mean() > 0.93
    assert isinstance(ours, FastPolygonMasks)
    assert (ours.height, ours.width) == (theirs.height, theirs.width)
    np.testing.assert_allclose(ours.areas, theirs.areas, atol=1e-6)
    assert (ious(ours, theirs) == 1).all()
    boxes, expected = (each.get_bboxes("hbox").tensor for each in (ours, pixels))
    left = expected.any(1)
    torch.testing.assert_close(boxes[left], expected[left], rtol=0, atol=2)
    assert not boxes[~left].any() or step in ("resize, flip", "crop again", "cat")
    assert ious(ours, pixels).mean() > 0.93


def test_a_polygon_that_crosses_itself_is_kept_whole():
    """Where no border crosses it; shapely loses half of it."""
    masks = FastPolygonMasks([[[30, 40, 60, 70, 60, 40, 30, 70]]], 90, 120)
    assert ious(masks.crop(WINDOW), BitmapMasks(masks.to_ndarray(), 90, 120).crop(WINDOW))[0] == 1


def test_polygons_without_objects():
    empty = FastPolygonMasks([], 90, 120)
    assert (len(empty.crop(WINDOW)), empty.crop(WINDOW).height) == (0, 60)
    masks = FastPolygonMasks([[], TRIANGLE], 90, 120).translate((90, 120), 5)
    assert masks.crop(WINDOW).to_ndarray().any((1, 2)).tolist() == [False, True]


def test_integers_are_not_truncated():
    masks = FastPolygonMasks([[[10, 10, 31, 10, 31, 31, 10, 31]]], *SIZE).resize((30, 40))
    assert masks.masks[0][0].tolist() == [5, 5, 15.5, 5, 15.5, 15.5, 5, 15.5]


def test_polygons_are_not_taken_for_bitmaps():
    masks = FastPolygonMasks([TRIANGLE], *SIZE)
    with pytest.raises(TypeError, match=r"polygons, no array: .* needs LoadAnnotations"):
        np.any(masks.masks, axis=0)
    with pytest.raises(TypeError, match="polygons, no array"):
        masks.masks[:, 1:5, 1:5] = 0
    back = pickle.loads(pickle.dumps(masks))
    assert np.array_equal(back.to_ndarray(), masks.to_ndarray())
