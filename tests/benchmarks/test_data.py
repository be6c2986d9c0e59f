"""The comparison of data pipelines on a few real images, and what it takes for equality."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from benchmarks import data
from benchmarks.comparison import OURS, Results, UnequalResultsError
from benchmarks.data import BITMAPS, IMAGES, KINDS, POLYGONS, RECIPES, Equality, Pipeline
from benchmarks.worker import Timing
from mmconvnext.data.transforms import FastPolygonMasks
from tests.benchmarks.helpers import arguments, cells

NUM_IMAGES = 6
SIZE = (40, 48)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A candidate has one of torch and none of OpenCV, which later tests need not have."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_real_pipelines_are_equal(coco_tiny, recipe):
    config, recomputed = RECIPES[recipe]
    checks = {
        kind: Pipeline(config, kind, str(coco_tiny), NUM_IMAGES).check()
        for kind in KINDS
        if kind != IMAGES
    }
    assert cv2.getNumThreads() == 1  # OpenCV's word for none but the caller's
    assert len([key for key in checks[OURS] if key.startswith("outline ")]) > 30
    equality = Equality(recomputed)
    assert equality(POLYGONS, checks[OURS], checks[POLYGONS]) == {"boxes": 0, "masks": 0}
    distances = equality(BITMAPS, checks[OURS], checks[BITMAPS])
    assert 0 < distances["masks"] < 0.3
    assert (distances["boxes"] > 0) == recomputed
    facts = equality.facts[BITMAPS]
    assert facts["objects"] > 30
    assert facts["iou_1_percent"] < facts["iou_median"] < 1
    # drawn at the final size, masks are nearer to the polygons than drawn before and resized
    of_ours = equality.facts[OURS]["iou_mean_of_outlines"]
    assert of_ours > 0.96 > facts["iou_mean_of_outlines"]


def test_a_run_needs_no_more_images_than_there_are(coco_tiny, monkeypatch):
    class Recorder(list):
        """A data set of two images that notes which was asked for, and a random number."""

        def __getitem__(self, index):
            seen.append((index, np.random.random(), torch.rand(1).item()))

    seen = []
    pipeline = Pipeline("coco_instance_lsj", IMAGES, str(coco_tiny), 3)
    monkeypatch.setattr(pipeline, "_dataset", Recorder("ab"))
    pipeline.run()
    pipeline.run()
    assert [index for index, *_ in seen] == [0, 1, 0] * 2
    assert seen[:3] == seen[3:]  # the same random numbers for the same image
    assert pipeline.facts() == {"images": 3}


def test_the_steps_of_each():
    types = ["LoadImageFromFile", "FastLoadAnnotations", "FastRandomFlip", "FilterAnnotations"]
    ours = [{"type": name, "prob": 0.5} for name in (*types, "FastPackDetInputs")]
    assert data.steps(ours, OURS) == ours
    assert data.steps(ours, IMAGES) == [ours[0], ours[2]]
    for kind, poly2mask in ((BITMAPS, True), (POLYGONS, False)):
        theirs = [{**step, "type": step["type"].removeprefix("Fast")} for step in ours]
        theirs[1]["poly2mask"] = poly2mask
        assert data.steps(ours, kind) == theirs


def test_outlines_are_what_is_at_least_half_inside():
    square = [3.0, 5.0, 20.7, 5.0, 20.7, 30.3, 3.0, 30.3]
    masks = FastPolygonMasks([[square], [[40.0, 1, 60, 1, 60, 9]], []], *SIZE)
    drawn = data.outlines(masks)
    expected = np.zeros(SIZE, bool)
    expected[5:30, 3:21] = True
    assert np.array_equal(drawn[0], expected)
    assert drawn[1].any()
    assert not drawn[2].any()
    bitmaps = masks.to_bitmap()
    assert np.array_equal(data.outlines(bitmaps), bitmaps.masks)


def checked(**changes: object) -> dict[str, np.ndarray]:
    """What a pipeline might give for two images, of two objects and a crowd each.

    Changes of the second image, by kind: a function, or None where it is lost.
    """
    random = np.random.default_rng(0)
    arrays = {}
    for image in range(2):
        arrays[f"image {image}"] = random.integers(0, 256, (3, *SIZE), dtype=np.uint8)
        arrays[f"scale {image}"] = np.array(2.0)
        arrays[f"ignored {image} 1"] = random.uniform(0, 40, 4)
        for number in (0, 2):
            mask = random.integers(0, 256, (40, 6), dtype=np.uint8)
            arrays[f"box {image} {number}"] = random.uniform(0, 40, 4)
            arrays[f"mask {image} {number}"] = mask
            arrays[f"outline {image} {number}"] = mask.copy()
    for kind, change in changes.items():
        for key in [key for key in arrays if key.startswith(f"{kind} 1")]:
            array = arrays.pop(key)
            if change:
                arrays[key] = change(array)
    return arrays


def plus(amount: float) -> object:
    return lambda array: array + amount


@pytest.mark.parametrize(
    ("name", "theirs", "words"),
    [
        (POLYGONS, checked(image=plus(1)), "image 1 of .* is another"),
        (POLYGONS, checked(image=lambda a: a[:, 1:]), "image 1 of .* is another"),
        (POLYGONS, checked(box=plus(2e-3)), r"of 4 boxes of .*, 50.0% are near .* 0.002"),
        (POLYGONS, checked(box=plus(np.nan)), "of 4 boxes of"),
        (POLYGONS, checked(box=None, mask=None), "2 objects are in one of both only"),
        (POLYGONS, checked(mask=lambda a: a ^ 1), r"mean IoU of 0\.8899 with ours, at least 0\.99"),
        (BITMAPS, checked(box=plus(2e-3)), "of 6 boxes of"),
        (BITMAPS, checked(ignored=plus(2e-3)), "of 6 boxes of .* 83.3%"),
        (BITMAPS, checked(ignored=None), "1 objects are in one of both only"),
        (BITMAPS, {"image 0": checked()["image 0"]}, "no objects in common"),
    ],
)
def test_others_are_refused(name, theirs, words):
    with pytest.raises(UnequalResultsError, match=f"{words}.*nothing was timed"):
        Equality(recomputed=False)(name, checked(), theirs)


def test_boxes_of_bitmaps_are_whole_pixels():
    near, far = (checked(box=plus(by)) for by in (2.9, 3.1))  # 1 + scale is 3
    equality = Equality(recomputed=True)
    assert equality(BITMAPS, checked(), near)["boxes"] == pytest.approx(2.9)
    with pytest.raises(UnequalResultsError, match=r"66.7% are near ours, at least 90% must be"):
        equality(BITMAPS, checked(), far)
    with pytest.raises(UnequalResultsError, match="boxes of"):
        equality(POLYGONS, checked(), near)


def test_masks_farther_from_the_outlines_than_bitmaps_are_refused():
    """What is rounded twice must not be the better one."""
    ours, theirs = checked(mask=lambda a: a & 0x3F), checked()
    with pytest.raises(UnequalResultsError, match=r"mean IoU with the outlines is 1\.0000 for"):
        Equality(recomputed=True)(BITMAPS, ours, theirs)
    equality = Equality(recomputed=True)
    assert equality(BITMAPS, theirs, ours)["masks"] > 0.05
    assert equality.facts[OURS] == {"iou_mean_of_outlines": 1}


@pytest.mark.parametrize("name", [BITMAPS, POLYGONS])
def test_the_same_are_equal_but_masks_that_are_empty_in_both_are_left_out(name):
    empty = checked(mask=np.zeros_like, outline=np.zeros_like)
    for arrays, objects in ((checked(), 4), (empty, 2)):
        equality = Equality(recomputed=False)
        assert equality(name, arrays, arrays) == {"boxes": 0, "masks": 0}
        assert (equality.facts[name]["objects"], equality.facts[name]["alone"]) == (objects, 0)


def test_the_command(monkeypatch, coco_tiny):
    def run(candidates, args, check, title):
        assert [each.name for each in candidates if each.compared] == [*KINDS[:3]]
        assert candidates[0].arguments["recipe"] == "coco_instance_lsj"
        found = check(BITMAPS, checked(), checked())
        timings = {name: [Timing(0.5 * (i + 1))] for i, name in enumerate(KINDS)}
        facts = {name: {"images": 40} for name in KINDS}
        return Results(title, timings, {BITMAPS: found}, facts)

    monkeypatch.setattr(data, "run", run)
    options = ("--data-root", coco_tiny, "--images", 40, "--recipe", "lsj")
    report = data.compare(arguments("data", *options))
    text = report.text()
    assert cells(text, OURS)[5:7] == ["80", "400%"]
    equal = ["4", "1.000", "1.0000", "1.0000", "1.0000", "0", "0"]
    assert cells(text, BITMAPS)[5:] == ["40", "200%", *equal]
    theirs = report.to_json()["tables"][0]["candidates"][1]
    assert theirs["facts"]["iou_mean"] == 1
