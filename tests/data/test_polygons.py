"""FlatPolygons beside MMDetection's PolygonMasks, and beside bitmaps and shapely."""

import pickle

import numpy as np
import pytest
import shapely
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.structures.mask.mask_target import mask_target_single
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmconvnext.data.polygons import FlatPolygons

HEIGHT, WIDTH = 90, 120
WINDOW = np.array([20, 30, 110, 90])
# An L whose long bar is above the window and whose foot reaches into it, one that is outside, one
# that touches the window from three sides, one around the window, and one within.
AROUND_WINDOW = [
    [0, 0, 100, 0, 100, 60, 90, 60, 90, 10, 0, 10],
    [0, 0, 100, 0, 100, 10, 0, 10],
    [10, 20, 114, 20, 114, 70, 110, 70, 110, 30, 20, 30, 20, 80, 10, 80],
    [-50, -50, 300, -50, 300, 300, -50, 300],
    [30, 40, 50, 40, 50, 70],
]
AFTER_A_CROP = {
    "nothing": lambda masks: masks,
    "pad": lambda masks: masks.pad((80, 100)),
    "resize": lambda masks: masks.resize((120, 180)),
    "pad, flip": lambda masks: masks.pad((80, 100)).flip("diagonal"),
    "pad, crop": lambda masks: masks.pad((80, 100)).crop(np.array([10, 5, 95, 70])),
    "flip, crop": lambda masks: masks.flip().crop(np.array([4, 0, 180, 50])),
    "translate": lambda masks: masks.translate((60, 90), -20).translate((60, 90), 8, "vertical"),
    "cat": lambda masks: masks.cat([masks, masks.flip()]),
    "select, pad": lambda masks: masks[[4, 0, 0, 1]].pad((80, 100)),
    "expand": lambda masks: masks.expand(100, 140, 7, 20),
}


def star(rng: np.random.Generator) -> np.ndarray:
    """A polygon that does not cross itself, as shapely wants it; perhaps with a part outside."""
    while True:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
        radii = rng.uniform(4, 50) * rng.uniform(0.4, 1, len(angles))
        outline = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = rng.uniform(0, (WIDTH, HEIGHT)) + outline
        if shapely.Polygon(points).is_valid:
            return points.reshape(-1)


@pytest.fixture
def objects() -> list[list[np.ndarray]]:
    """Objects of one to three polygons each, some at the border."""
    rng = np.random.default_rng(0)
    return [[star(rng) for _ in range(rng.integers(1, 4))] for _ in range(40)]


@pytest.fixture
def both(objects) -> tuple[FlatPolygons, PolygonMasks]:
    return FlatPolygons(objects, HEIGHT, WIDTH), PolygonMasks(objects, HEIGHT, WIDTH)


@pytest.fixture
def cropped() -> list[PolygonMasks | BitmapMasks]:
    objects = [[np.array(polygon, dtype=float)] for polygon in AROUND_WINDOW]
    ours, theirs = (kind(objects, HEIGHT, WIDTH) for kind in (FlatPolygons, PolygonMasks))
    bitmaps = BitmapMasks(theirs.to_ndarray().astype(np.uint8), HEIGHT, WIDTH)
    return [masks.crop(WINDOW) for masks in (ours, theirs, bitmaps)]


def assert_same(ours: PolygonMasks, theirs: PolygonMasks) -> None:
    assert (ours.height, ours.width, len(ours)) == (theirs.height, theirs.width, len(theirs))
    for mine, other in zip(ours.masks, theirs.masks, strict=True):
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.array_equal(ours.to_ndarray(), theirs.to_ndarray())
    assert ours.to_ndarray().dtype == bool


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(bool), b.astype(bool)
    union = (a | b).sum((1, 2))
    return np.where(union == 0, 1, (a & b).sum((1, 2)) / np.maximum(union, 1))


def test_as_given(both):
    assert_same(*both)
    assert "num_masks=40, height=90, width=120" in repr(both[0])


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_flip(both, direction):
    ours, theirs = both
    assert_same(ours.flip(direction), theirs.flip(direction))


def test_other_directions_are_refused(both):
    with pytest.raises(ValueError, match="flip_direction='up' must be horizontal, vertical or"):
        both[0].flip("up")
    with pytest.raises(ValueError, match=r"direction='up' must be .*border_value=255 None or 0"):
        both[0].translate((HEIGHT, WIDTH), 5, "up", border_value=255)


def test_resize_and_rescale(both):
    ours, theirs = both
    assert_same(ours.resize((41, 77)), theirs.resize((41, 77)))
    assert_same(ours.rescale((500, 300)), theirs.rescale((500, 300)))
    assert_same(ours.rescale(1.7), theirs.rescale(1.7))


@pytest.mark.parametrize(
    "index", [0, -1, slice(2, 30, 3), [3, 1, 3], np.array([5, 0]), np.arange(40) % 3 == 0, []]
)
def test_indexing(both, index):
    ours, theirs = both
    assert_same(ours[index], theirs[index])


def test_an_index_out_of_range(both):
    with pytest.raises(IndexError):
        both[0][40]


def test_indexing_in_instance_data(both):
    data = InstanceData(masks=both[0], labels=torch.arange(40))
    assert_same(data[torch.arange(40) > 30].masks, both[1][slice(31, None)])


def test_crop(both):
    """What lies outside is cut off as shapely does it."""
    window = np.array([30, 20, 95, 200])
    ours, theirs = (masks.crop(window) for masks in both)
    assert (ours.height, ours.width) == (theirs.height, theirs.width) == (70, 65)
    overlap = ious(ours.to_ndarray(), theirs.to_ndarray())
    assert overlap.mean() > 0.999
    assert overlap.min() > 0.97
    # the same areas, though perhaps other first vertices
    np.testing.assert_allclose(ours.areas, theirs.areas, atol=1e-9)
    bitmaps = both[1].to_ndarray()[:, 20:, 30:95]
    assert ious(ours.to_ndarray(), bitmaps).mean() > 0.99


def test_whatever_follows_a_crop(both):
    window = np.array([30, 20, 95, 75])
    ours, theirs = (
        m.crop(window).resize((300, 200)).flip().crop(np.array([10, 50, 150, 280])) for m in both
    )
    assert ious(ours.to_ndarray(), theirs.to_ndarray()).mean() > 0.999
    padded = ours.pad((400, 400)).to_ndarray()  # what was cut off does not come back
    assert not padded[:, 230:].any()
    assert not padded[:, :, 140:].any()


def test_boxes(both):
    ours, theirs = both
    assert torch.equal(ours.get_bboxes().tensor, theirs.get_bboxes("hbox").tensor)
    boxes = ours.get_bboxes(HorizontalBoxes)
    assert isinstance(boxes, HorizontalBoxes)
    assert ours[[]].get_bboxes().tensor.shape == (0, 4)


@pytest.mark.parametrize("window", [(30, 20, 95, 75), (0, 0, 7, 90), (50, 40, 52, 41)])
def test_boxes_after_a_crop(objects, window):
    corner = np.tile(window[:2], 2)
    ours = FlatPolygons(objects, HEIGHT, WIDTH).crop(np.array(window)).get_bboxes().tensor
    for box, polygons in zip(ours.numpy(), objects, strict=True):
        area = shapely.union_all(
            [shapely.Polygon(p.reshape(-1, 2)).intersection(shapely.box(*window)) for p in polygons]
        )
        expected = np.array(area.bounds) - corner if area.area else np.zeros(4)
        np.testing.assert_allclose(box, expected, atol=1e-4)


@pytest.mark.parametrize("step", AFTER_A_CROP)
def test_boxes_are_of_what_is_left(cropped, step):
    ours, theirs, bitmaps = cropped
    boxes = AFTER_A_CROP[step](ours).get_bboxes("hbox").tensor
    assert not torch.signbit(boxes).any()  # no -0.0 either
    by_pixels = AFTER_A_CROP[step](bitmaps).get_bboxes("hbox").tensor
    left = by_pixels.any(1)
    assert not boxes[~left].any()
    assert (boxes - by_pixels).abs().max() <= 2
    if step != "expand":  # PolygonMasks has none
        expected = AFTER_A_CROP[step](theirs).get_bboxes("hbox").tensor
        np.testing.assert_allclose(boxes[left], expected[left], atol=1e-5)


def test_cat(cropped, both):
    """Each object keeps the window that a crop has left of it."""
    (ours, _, bitmaps), (whole, theirs) = cropped, both
    parts = [whole, ours, whole.crop(np.array([50, 40, 52, 41])).resize((90, 120))]
    joined = whole.cat([*parts, theirs])  # some transforms of MMDetection make PolygonMasks
    for measure in (lambda m: m.areas, lambda m: m.get_bboxes("hbox").tensor):
        expected = np.concatenate([measure(masks) for masks in (*parts, theirs)])
        np.testing.assert_allclose(measure(joined), expected, atol=1e-5)
    with pytest.raises(TypeError, match=r"join BitmapMasks and polygons: .* take LoadAnnotations"):
        whole.cat([bitmaps, whole])
    with pytest.raises(ValueError, match="masks is empty"):
        FlatPolygons.cat([])


def test_mask_targets_after_a_crop(cropped):
    boxes, which = (
        np.float32([[60, 0, 90, 40], [0, 0, 40, 50], [5, 5, 40, 45]]),
        np.array([0, 1, 4]),
    )
    ours, theirs, _ = (masks.crop_and_resize(boxes, (28, 28), which) for masks in cropped)
    assert np.array_equal(ours.to_ndarray(), theirs.to_ndarray())
    assert ours.to_ndarray().any((1, 2)).tolist() == [True, False, True]


def test_mask_targets(both):
    """Those of MMDetection, to the last bit."""
    rng = np.random.default_rng(1)
    low = rng.uniform(-10, (WIDTH, HEIGHT), (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 60, (200, 2))], axis=1).astype(np.float32)
    which = rng.integers(0, 40, 200)
    ours, theirs = (masks.crop_and_resize(boxes, (28, 28), which) for masks in both)
    assert_same(ours, theirs)
    cfg = Config({"mask_size": 28})
    arguments = torch.from_numpy(boxes), torch.from_numpy(which)
    targets = [mask_target_single(*arguments, masks, cfg) for masks in both]
    assert torch.equal(*targets)
    assert targets[0].any()


def test_fractional_targets_are_refused(both):
    with pytest.raises(ValueError, match="binarize=False"):
        both[0].crop_and_resize(np.zeros((1, 4)), (28, 28), np.zeros(1, int), binarize=False)


def test_no_objects():
    ours, theirs = FlatPolygons([], HEIGHT, WIDTH), PolygonMasks([], HEIGHT, WIDTH)
    assert_same(ours, theirs)
    assert_same(ours.resize((5, 6)), theirs.resize((5, 6)))
    assert_same(ours.crop(WINDOW), theirs.crop(WINDOW))
    assert_same(ours[np.zeros(0, bool)], theirs)
    targets = ours.crop_and_resize(np.zeros((0, 4), np.float32), (28, 28), np.zeros(0, int))
    assert targets.to_ndarray().shape == (0, 28, 28)


def test_integers_are_not_truncated():
    square = [[[10, 10, 31, 10, 31, 31, 10, 31]]]
    masks = FlatPolygons(square, HEIGHT, WIDTH).resize((45, 60))
    assert masks.masks[0][0].tolist() == [5, 5, 15.5, 5, 15.5, 15.5, 5, 15.5]


def test_polygons_without_area_are_left_out():
    """pycocotools takes four numbers for a box."""
    triangle, line = [0, 0, 9, 0, 9, 9], [10, 10, 20, 20]
    masks = FlatPolygons([[], [line], [line, triangle], [[]]], HEIGHT, WIDTH)
    assert masks.areas.tolist() == [0, 0, 40.5, 0]
    for each in (masks, masks.crop(np.array([0, 0, 50, 50])), masks.pad((200, 200))):
        nothing = [0, 0, 0, 0]
        assert each.get_bboxes().tensor.tolist() == [nothing, nothing, [0, 0, 9, 9], nothing]
        assert each.to_ndarray().any((1, 2)).tolist() == [False, False, True, False]


def test_expand(both):
    """PolygonMasks has none: beside bitmaps."""
    ours, theirs = both
    expanded = ours.expand(200, 300, 7, 20)
    bitmaps = theirs.to_bitmap().expand(200, 300, 7, 20)
    assert (expanded.height, expanded.width) == (200, 300)
    inside = expanded.crop(np.array([20, 7, 20 + WIDTH, 7 + HEIGHT])).to_ndarray()
    assert ious(inside, bitmaps.masks[:, 7 : 7 + HEIGHT, 20 : 20 + WIDTH]).mean() > 0.999


def test_polygons_are_not_taken_for_bitmaps(both):
    with pytest.raises(TypeError, match=r"polygons, no array: .* needs LoadAnnotations"):
        np.any(both[0].masks, axis=0)
    with pytest.raises(TypeError, match="polygons, no array"):
        both[0].masks[:, 1:5, 1:5] = 0
    assert isinstance(both[0].masks, list)


def test_nobody_changes_masks_by_their_polygons(both):
    for masks in (both[0], both[0].crop(WINDOW)):
        with pytest.raises(ValueError, match="read-only"):
            masks.masks[0][0][:] = 7
        masks.masks[0].clear()
        assert all(masks.masks)


def test_between_processes(both):
    cropped = both[0].crop(np.array([30, 20, 95, 75]))
    back = pickle.loads(pickle.dumps(cropped))
    assert np.array_equal(back.to_ndarray(), cropped.to_ndarray())
    np.testing.assert_array_equal(back.areas, cropped.areas)


def test_what_is_left_to_mmdetection(both):
    ours, theirs = both
    assert_same(ours.rotate((HEIGHT, WIDTH), 5), theirs.rotate((HEIGHT, WIDTH), 5))
    assert_same(FlatPolygons.cat([ours[:3], ours[5:]]), PolygonMasks.cat([theirs[:3], theirs[5:]]))
    np.testing.assert_allclose(ours.areas, theirs.areas)
