"""The comparison of data pipelines: ours, and the same made of MMDetection's transforms."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.comparison import (
    Arrays,
    BenchmarkError,
    Candidate,
    Results,
    UnequalResultsError,
    run,
)
from benchmarks.report import Column, Report

FACTORY = "benchmarks.pipeline_candidate:Pipeline"
BITMAPS = "MMDetection, its default"
# Candidates, ours first, and the reference; their kinds are those of `Pipeline`.
KINDS: Mapping[str, str] = {
    "ours": "ours",
    BITMAPS: "bitmaps",
    "MMDetection, poly2mask=False": "polygons",
    "images alone": "images",
}
# As chosen -> the config, and whether its pipeline takes boxes anew from the masks.
RECIPES: Mapping[str, tuple[str, bool]] = {
    "coco_instance": ("coco_instance", False),
    "lsj": ("coco_instance_lsj", True),
}
ANNOTATIONS = "annotations/instances_train2017.json"
NUM_IMAGES = 80
BOX_TOLERANCE = 1e-3  # pixels
LEAST_MEAN_IOU = 0.99
# Where boxes are taken anew from bitmaps, see NOTES: the share of the boxes that must be near, and
# that of the objects which one pipeline alone may keep.
LEAST_NEAR, MOST_ALONE = 0.9, 0.01
NO_OBJECTS = np.zeros(0, dtype=int)
NOTES = (
    "each is one worker of a data loader: no threads of OpenCV, as MMEngine sets it",
    "images alone: ours without objects and packing (reading, decoding, flipping, resizing, "
    "cropping), in the same round",
    "images are equal to the bit and objects are the same; distance: of boxes in pixels, the "
    "largest; of masks, 1 - mean IoU",
    "MMDetection's default draws masks at the file's size and resizes them by nearest neighbours; "
    "outline: the pixels of which at least half is inside the polygons",
    "where a recipe takes boxes anew from the masks (lsj), those of bitmaps are whole pixels: at "
    f"least {LEAST_NEAR:.0%} must be as near as one pixel of the file and one of the image; the "
    "rest are of parts thinner than a pixel, which bitmaps lose",
)


class Pair(NamedTuple):
    """The same objects of an image in what two pipelines gave.

    Attributes:
        image: its number.
        first: where they are in the one.
        second: where they are in the other.
    """

    image: str
    first: np.ndarray
    second: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(threads=1)  # as in a worker of a data loader
    parser.add_argument("--data-root", default="data/coco/", help="folder of COCO 2017")
    parser.add_argument(
        "--images",
        type=int,
        default=NUM_IMAGES,
        help="of a run, from train2017; default: %(default)s",
    )
    parser.add_argument(
        "--recipe", nargs="+", choices=RECIPES, default=[*RECIPES], help="default: both"
    )


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each recipe that the command line names.

    Raises:
        BenchmarkError: an argument is wrong, or a comparison failed.
    """
    if args.images < 1:
        raise BenchmarkError(f"--images {args.images} must be at least 1")
    if not Path(args.data_root, ANNOTATIONS).is_file():
        raise BenchmarkError(
            f"--data-root {args.data_root} has no {ANNOTATIONS}: name the folder of COCO 2017, "
            "with that file and train2017/"
        )
    options = {"rounds": args.rounds, "warmup": args.warmup, "threads": args.threads}
    tables = [compare_one(recipe, args.data_root, args.images, **options) for recipe in args.recipe]
    columns = [Column("images/s", _speed), Column("of it images alone", _share)]
    return Report(tables, columns, [*NOTES, *(line for table in tables for line in _found(table))])


def compare_one(recipe: str, data_root: str, images: int, **options: int) -> Results:
    """Compare, then time; what the images alone take is measured alternately with the candidates.

    Args:
        recipe: a key of ``RECIPES``.
        data_root: folder of COCO.
        images: how many of its training split.
        options: ``rounds``, ``warmup`` and ``threads`` of :func:`benchmarks.comparison.run`.

    Returns:
        With the facts that :class:`Equality` finds, and ``share_of_images``: the median over the
        rounds of the time of the images alone divided by the candidate's.
    """
    config, recomputed = RECIPES[recipe]
    arguments = {"recipe": config, "data_root": data_root, "images": images}
    *candidates, reference = [
        Candidate(name, FACTORY, {"kind": kind, **arguments}) for name, kind in KINDS.items()
    ]
    equality = Equality(recomputed)
    title = f"{config}, {images} images of train2017"
    results = run(candidates, check=equality, title=title, reference=reference, **options)
    for name, facts in results.facts.items():
        pairs = zip(results.reference, results.timings[name], strict=True)
        facts["share_of_images"] = statistics.median(a.seconds / b.seconds for a, b in pairs)
        facts |= equality.facts.get(name, {})
    return results


class Equality:
    """Demands the same images and objects, and tells how near boxes and masks are.

    Where MMDetection keeps polygons, too, they must be ours. Its bitmaps are rounded to the file's
    pixels before they are resized; there our masks must be as near to the outlines as they are.

    Args:
        recomputed: whether boxes are taken anew from the masks.

    Attributes:
        facts: by candidate, what was found of its masks and boxes.
    """

    def __init__(self, recomputed: bool):
        self.recomputed = recomputed
        self.facts: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """Compare what the pipelines gave.

        Raises:
            UnequalResultsError: they gave something else.
        """
        for image in (key for key in ours if key.startswith("image ") and key in theirs):
            _demand(np.array_equal(ours[image], theirs[image]), f"{image} of {name} is another")
        pairs, alone = _pair(ours, theirs)
        _demand(len(pairs), f"{name} and ours have no objects in common")
        facts = {"alone": float(alone), **_overlaps(pairs, ours, theirs)}
        gaps = _gaps(pairs, ours, theirs)
        mean, outline = facts["iou_mean"], facts["iou_mean_of_outlines"]
        if name == BITMAPS:
            ours_outline = facts["iou_mean_of_ours_and_outlines"]
            better = f"mean IoU with the outlines is {outline:.4f} for {name}, {ours_outline:.4f}"
            _demand(ours_outline >= outline, f"{better} for ours")
            # with poly2mask=False MMDetection loses the masks of crowds, and boxes with them
            crowds, crowds_alone = _pair(ours, theirs, "ignored ")
            gaps = np.concatenate([gaps, _gaps(crowds, ours, theirs, "ignored ")])
            alone += crowds_alone
        else:
            low = f"the masks of {name} have a mean IoU of {mean:.4f} with ours"
            _demand(mean >= LEAST_MEAN_IOU, f"{low}, at least {LEAST_MEAN_IOU} is demanded")
        _check_boxes(name, gaps, alone, rounded=self.recomputed and name == BITMAPS)
        facts |= {"box_median": float(np.median(gaps[:, 0])), "box_max": float(gaps[:, 0].max())}
        self.facts[name] = facts
        return {"boxes": facts["box_max"], "masks": 1 - mean}


def _demand(condition: object, otherwise: str) -> None:
    if not condition:
        raise UnequalResultsError(f"{otherwise}; nothing was timed")


def _pair(ours: Arrays, theirs: Arrays, prefix: str = "") -> tuple[list[Pair], int]:
    """Find the same objects in both, and count those that only one has."""
    pairs, alone = [], 0
    for image in sorted({key.rpartition(" ")[2] for key in (*ours, *theirs)}, key=int):
        numbers = [each.get(f"{prefix}objects {image}", NO_OBJECTS) for each in (ours, theirs)]
        common, *places = np.intersect1d(*numbers, return_indices=True)
        alone += sum(map(len, numbers)) - 2 * len(common)
        if len(common):
            pairs.append(Pair(image, *places))
    return pairs, alone


def _gaps(pairs: Sequence[Pair], ours: Arrays, theirs: Arrays, prefix: str = "") -> np.ndarray:
    """For each object how far its boxes are apart, and what a pixel of the file takes; in pixels.

    Returns:
        Of shape (objects, 2).
    """
    gaps = [np.zeros((0, 2))]
    for image, first, second in pairs:
        boxes, others = (each[f"{prefix}boxes {image}"] for each in (ours, theirs))
        apart = np.abs(boxes[first] - others[second]).max(1)
        gaps.append(np.stack([apart, np.full_like(apart, ours[f"scale {image}"])], axis=1))
    return np.concatenate(gaps)


def _overlaps(pairs: Sequence[Pair], ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """How far the masks overlap with ours, and both with the outlines."""
    same = [Pair(image, first, first) for image, first, _ in pairs]
    back = [Pair(image, second, first) for image, first, second in pairs]
    ious, empty = _ious(pairs, ours, theirs)
    return {
        "objects": float(len(ious)),
        "empty_in_one": float(empty),
        "iou_min": float(ious.min()),
        "iou_1_percent": float(np.quantile(ious, 0.01)),
        "iou_median": float(np.median(ious)),
        "iou_mean": float(ious.mean()),
        "iou_mean_of_outlines": float(_ious(back, theirs, ours, "outlines")[0].mean()),
        "iou_mean_of_ours_and_outlines": float(_ious(same, ours, ours, "outlines")[0].mean()),
    }


def _ious(
    pairs: Sequence[Pair], masks: Arrays, others: Arrays, kind: str = "masks"
) -> tuple[np.ndarray, int]:
    """IoU of each object's masks, without those empty in both, and how many are empty in one."""
    ious, empty = [], 0
    for image, first, second in pairs:
        a, b = masks[f"masks {image}"][first], others[f"{kind} {image}"][second]
        empty += np.count_nonzero(a.any((1, 2)) != b.any((1, 2)))
        union = np.bitwise_count(a | b).sum((1, 2))
        ious.append((np.bitwise_count(a & b).sum((1, 2)) / np.maximum(union, 1))[union > 0])
    return np.concatenate(ious), empty


def _check_boxes(name: str, gaps: np.ndarray, alone: int, rounded: bool) -> None:
    gap, scale = gaps.T
    limit, least = (1 + scale, LEAST_NEAR) if rounded else (BOX_TOLERANCE, 1.0)
    most_alone = MOST_ALONE * len(gaps) if rounded else 0
    near = np.mean(gap <= limit)
    _demand(
        near >= least and alone <= most_alone,
        f"of {len(gaps)} boxes of {name}, {near:.1%} are near ours, at least {least:.0%} must be, "
        f"and they differ by up to {gap.max():.3g} pixels; {alone} objects are in one of both "
        f"only, at most {most_alone:.0f} may be",
    )


def _found(results: Results) -> list[str]:
    """What was found of each candidate of a table, a line for each."""
    recipe = results.title.partition(",")[0]
    return [
        f"{recipe}, {name}, {f['objects']:.0f} objects: IoU with our masks {f['iou_min']:.3f} "
        f"(least), {f['iou_1_percent']:.3f} (1 %), {f['iou_median']:.4f} (median), "
        f"{f['iou_mean']:.4f} (mean), {f['empty_in_one']:.0f} empty in one only; with the outlines "
        f"{f['iou_mean_of_outlines']:.4f} (mean), ours {f['iou_mean_of_ours_and_outlines']:.4f}; "
        f"boxes differ by {f['box_median']:.2g} (median), {f['box_max']:.2g} pixels (most); "
        f"{f['alone']:.0f} objects in one only"
        for name, f in results.facts.items()
        if "objects" in f
    ]


def _speed(results: Results, name: str) -> str:
    return f"{results.facts[name]['images'] / results.median_seconds(name):.0f}"


def _share(results: Results, name: str) -> str:
    return f"{results.facts[name]['share_of_images']:.0%}"
