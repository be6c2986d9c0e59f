"""Tiles: no object is lost and none is found twice, whatever border it lies across."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmconvnext import Detector
from mmconvnext.crops import Crop, cropped
from mmconvnext.inference.prediction import Frame, Prediction
from mmconvnext.inference.tiles import OVERLAP, Window, merge, windows_of
from tests.inference.conftest import CONFIG

WIDTH, HEIGHT, TILE = 700, 500, 200


@pytest.mark.parametrize("size", [(200, 200), (199, 5), (201, 200), (1000, 333), (700, 500)])
def test_tiles_cover_the_picture_and_overlap(size):
    windows = list(windows_of(size, TILE))
    covered = np.zeros(size[::-1], dtype=int)
    for left, top, right, bottom in windows:
        assert (right - left, bottom - top) == (min(size[0], TILE), min(size[1], TILE))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    for low, high in ((0, 2), (1, 3)):
        ends = sorted({(window[low], window[high]) for window in windows})
        for (_, end), (start, _) in pairwise(ends):
            assert end - start >= OVERLAP * TILE - 1
    assert list(windows_of(size, None)) == [Window(0, 0, *size)]


def scene():
    """Pictures whose values number objects: disks and bars across borders, small on large."""
    numbers, labels = np.zeros((HEIGHT, WIDTH), np.uint8), []
    y, x = np.mgrid[:HEIGHT, :WIDTH]

    def add(where, label):
        labels.append(label)
        numbers[where] = len(labels)

    add((x - 350) ** 2 / 320**2 + (y - 250) ** 2 / 60**2 < 1, 0)  # wider than three tiles
    for left in range(100, 640, 90):  # on it, of the same class and of others
        add((x - left) ** 2 + (y - 250) ** 2 < 15**2, left // 90 % 2)
    for row in (60, 150, 340, 440):
        for column in range(10, WIDTH, 61):
            add((x - column) ** 2 + (y - row) ** 2 < (8 + column % 20) ** 2, column % 3)
    add((abs(y - 400) < 3) & (x > 5) & (x < 690), 2)  # a thin one, through all tiles
    add((abs(x - 150) < 2) & (y < 130), 1)  # along a border
    return numbers, labels


def perfect(detector, labels, with_masks):
    """Answers of a detector that sees whatever is in a tile."""

    def forward(parts):
        samples = []
        for part in parts:
            numbers = part.packed["inputs"][0].numpy()
            seen = [n for n in np.unique(numbers) if n]
            masks = np.array([numbers == n for n in seen]).reshape(-1, *numbers.shape)
            boxes = []
            for left, top, bitmap in map(cropped, masks):
                boxes.append([left, top, left + bitmap.shape[1], top + bitmap.shape[0]])
            found = InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                labels=torch.tensor([labels[n - 1] for n in seen], dtype=torch.long),
                scores=torch.tensor([m.sum() / m.size for m in masks], dtype=torch.float32),
            )
            if with_masks:
                found.masks = torch.from_numpy(masks)
            samples.append(DetDataSample(pred_instances=found))
        return samples

    detector._forward = forward
    # the numbers have to arrive as they are
    detector._pack = lambda results: {"inputs": torch.from_numpy(results["img"]).permute(2, 0, 1)}


@pytest.mark.parametrize("batch", [1, 5])
def test_every_object_is_found_once_and_whole(checkpoint, batch):
    numbers, labels = scene()
    detector = Detector(CONFIG, checkpoint, tile=TILE, batch=batch)
    perfect(detector, labels, with_masks=True)
    two = list(detector.predict([numbers, numbers[:, ::-1].copy()]))
    for found, picture in zip(two, (numbers, numbers[:, ::-1]), strict=True):
        assert len(found) == len(labels)
        order = []
        for box, label, mask in zip(found.boxes, found.labels, found.masks, strict=True):
            (number,) = np.unique(picture[mask])
            order.append(number)
            np.testing.assert_array_equal(mask, picture == number)
            assert label == labels[number - 1]
            left, top, bitmap = cropped(mask)
            assert box.tolist() == [left, top, left + bitmap.shape[1], top + bitmap.shape[0]]
        assert sorted(order) == list(range(1, len(labels) + 1))
        assert (np.diff(found.scores) <= 0).all()


def random_scene(rng):
    """Ellipses of all sizes, one over the other, of which each remains in one piece."""
    numbers, labels = np.zeros((HEIGHT, WIDTH), np.uint8), []
    while len(labels) < 40:
        center, axes = rng.integers(0, (WIDTH, HEIGHT)), rng.integers(3, rng.integers(5, 250), 2)
        drawn = cv2.ellipse(
            numbers.copy(), center.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360,
            len(labels) + 1, -1,
        )  # fmt: skip
        changed = {len(labels) + 1, *np.unique(numbers[drawn != numbers])} - {0}
        masks = [(drawn == number).astype(np.uint8) for number in changed]
        if all(cv2.connectedComponents(mask, connectivity=4)[0] == 2 for mask in masks):
            numbers, labels = drawn, [*labels, rng.integers(3)]
    return numbers, labels


@pytest.mark.parametrize("seed", range(2))
def test_tiles_find_what_the_whole_picture_has(checkpoint, seed):
    rng = np.random.default_rng(seed)
    numbers, labels = random_scene(rng)
    results = []
    for tile in (None, int(rng.integers(80, 300))):
        detector = Detector(CONFIG, checkpoint, tile=tile)
        perfect(detector, labels, with_masks=True)
        found = detector(numbers)
        results.append(found[np.lexsort(found.boxes.T)])
    whole, tiled = results
    assert len(whole) == len(labels)
    for key in ("boxes", "labels", "masks"):
        np.testing.assert_array_equal(getattr(tiled, key), getattr(whole, key))


def test_boxes_alone(checkpoint):
    """Boxes that overlap are told apart as far as boxes can be: here they do not."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    numbers = (y // 50 * 14 + x // 50 + 1) * ((y % 50 > 5) & (x % 50 > 5))
    detector = Detector(CONFIG, checkpoint, tile=TILE)
    perfect(detector, np.arange(140) % 3, with_masks=False)
    found = detector(numbers.astype(np.uint8))
    assert found.masks is None
    assert len(found) == 140
    corners = {tuple(box) for box in found.boxes.astype(int).tolist()}
    wanted = {(x + 6, y + 6, x + 50, y + 50) for x in range(0, 700, 50) for y in range(0, 500, 50)}
    assert corners == wanted


def test_what_a_tile_finds_twice_is_merged_the_best_with_the_best():
    """Whichever of the other tile's agrees more: else both that are good would stay."""
    shapes = {0: (60, 20, 90, 60), 6: (66, 20, 96, 60)}  # IoU 0.67
    parts = []
    for window, found in (
        (Window(0, 0, 100, 100), [(0, 0.5), (6, 0.1)]),
        (Window(60, 0, 160, 100), [(6, 0.4), (0, 0.2)]),
    ):
        boxes = np.array([shapes[shift] for shift, _ in found], np.float32)
        crops = [Crop(60 + shift, 20, np.ones((40, 30), bool)) for shift, _ in found]
        scores, labels = np.array([score for _, score in found]), np.zeros(2, int)
        frame, size = Frame("a", None), (160, 100)
        parts.append((window, Prediction(frame, size, boxes, scores, labels, crops, "a", ())))
    assert merge(parts).scores.tolist() == [0.5, 0.2]


def test_nothing_and_empty_masks(checkpoint):
    detector = Detector(CONFIG, checkpoint, tile=TILE)
    perfect(detector, [0], with_masks=True)
    assert len(detector(np.zeros((HEIGHT, WIDTH), np.uint8))) == 0
    whole = np.ones((HEIGHT, WIDTH), np.uint8)
    forward = detector._forward

    def without_pixels(parts):
        samples = forward(parts)
        for sample in samples:
            sample.pred_instances.masks[:] = False
        return samples

    detector._forward = without_pixels
    (box,) = detector(whole).boxes.tolist()  # its boxes tell that it is one
    assert box == [0, 0, WIDTH, HEIGHT]
    assert not detector(whole).masks.any()


def test_a_tile_as_large_as_the_picture_changes_nothing(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    whole, tiled = (Detector(CONFIG, checkpoint, tile=tile)(image) for tile in (None, 160))
    assert len(whole) > 0
    np.testing.assert_array_equal(whole.boxes, tiled.boxes)
    np.testing.assert_array_equal(whole.masks, tiled.masks)
