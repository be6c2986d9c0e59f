"""The comparison of detectors: ours, MMDetection's ConvNeXt, and the peers of the paper."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks import speed
from benchmarks.comparison import (
    Arrays,
    BenchmarkError,
    Candidate,
    Results,
    UnequalResultsError,
    run,
)
from benchmarks.devices import choose_device
from benchmarks.report import UNKNOWN, Column, Report
from benchmarks.roofline import PEERS as FOLDER_OF_PEERS
from benchmarks.roofline import reference

FACTORY = "benchmarks.detector_candidate:Detector"
OURS = "ours"
SAME = "MMDetection, mmpretrain"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPE = "mmdet::convnext/{}-p4-w7_fpn_{}amp-ms-crop-3x_coco.py"
# kind -> our config, then those of MMDetection
DETECTORS: Mapping[str, Mapping[str, str]] = {
    "mask_rcnn": {
        OURS: "mask_rcnn_convnext_t_coco.py",
        SAME: RECIPE.format("mask-rcnn_convnext-t", ""),
        "MMDetection, Swin-T": "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
        "MMDetection, ResNet-50": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    },
    "cascade": {
        OURS: "cascade_convnext_t_coco.py",
        SAME: RECIPE.format("cascade-mask-rcnn_convnext-t", "4conv1fc-giou_"),
        "MMDetection, ResNet-50": "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    },
}
# Published frames a second on an A100 ("A ConvNet for the 2020s", table 3), of the same kind.
PUBLISHED_FPS = {
    ("mask_rcnn", OURS): 25.6,
    ("mask_rcnn", SAME): 25.6,
    ("mask_rcnn", "MMDetection, Swin-T"): 23.1,
    ("cascade", OURS): 13.5,
    ("cascade", SAME): 13.5,
    ("cascade", "MMDetection, ResNet-50"): 16.2,
}
BOX_TOLERANCE = 1e-3  # pixels
SCORE_TOLERANCE = 1e-4
MASK_TOLERANCE = 1e-3  # of the pixels of our masks
IMAGES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--kind", nargs="+", choices=DETECTORS, default=[*DETECTORS], help="default: both"
    )
    parser.add_argument("--data-root", default="data/coco/", help="folder of COCO 2017")
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="of a run, from val2017; default: %(default)s"
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each kind of detector that the command line names.

    Raises:
        BenchmarkError: an argument is wrong, or a comparison failed.
    """
    device = choose_device(args.device)
    if args.images < 1:
        raise BenchmarkError(f"--images {args.images} must be at least 1")
    if not Path(args.data_root).is_dir():
        raise BenchmarkError(
            f"--data-root {args.data_root} is no folder: name that of COCO 2017, with "
            "annotations/instances_val2017.json and val2017/"
        )
    tables = [
        compare_one(
            kind,
            data_root=args.data_root,
            images=args.images,
            device=device,
            rounds=args.rounds,
            warmup=args.warmup,
            threads=args.threads,
        )
        for kind in args.kind
    ]
    columns = [Column("images/s", _images_per_second), Column("published", _published)]
    return Report(tables, [*columns, *speed.columns()], [*NOTES, speed.note(tables)])


NOTES = (
    "detectors have random weights and, by those of their classifiers, detections on every image; "
    "ours and MMDetection's ConvNeXt have the same weights",
    "distance: of boxes in pixels, of scores, and the share of the pixels of masks that differ; "
    "Swin-T and ResNet-50 are other networks, of which nothing is compared",
    "published: frames a second on an A100, ours divided by theirs (A ConvNet for the 2020s, "
    "table 3), to be compared with time / ours",
)


def compare_one(kind: str, data_root: str, images: int, device: str, **options: int) -> Results:
    """Compare, then time.

    Args:
        kind: a key of ``DETECTORS``.
        data_root: folder of COCO.
        images: how many of its validation split.
        device: in torch's words.
        options: ``rounds``, ``warmup`` and ``threads`` of :func:`benchmarks.comparison.run`.
    """
    title = f"{kind}, ConvNeXt-T, {images} images at full size, {device}"
    results = run(
        candidates(kind, data_root, images, device),
        check=check,
        title=title,
        reference=reference(device, "float32"),
        **options,
    )
    if SAME in results.facts:  # the same work, counted where it is torch's operators alone
        results.facts[OURS]["flops"] = results.facts[SAME]["flops"]
    speed.relate_to_gemm(results)
    for name, facts in results.facts.items():
        published = PUBLISHED_FPS.get((kind, name))
        if published:
            facts["published_ratio"] = PUBLISHED_FPS[kind, OURS] / published
    return results


def candidates(kind: str, data_root: str, images: int, device: str) -> list[Candidate]:
    """Describe candidates, see :class:`benchmarks.detector_candidate.Detector`."""
    ours = str(CONFIGS / DETECTORS[kind][OURS])
    mmpretrain = FOLDER_OF_PEERS / "mmpretrain"
    return [
        Candidate(
            name,
            FACTORY,
            {
                "config": ours if name == OURS else config,
                "reference": ours,
                "same": name == SAME,
                "ours": name == OURS,
                "data_root": data_root,
                "images": images,
                "device": device,
            },
            (str(mmpretrain),) if name == SAME and mmpretrain.is_dir() else (),
        )
        for name, config in DETECTORS[kind].items()
    ]


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same detections of the same network; others detect something else.

    Raises:
        UnequalResultsError: their number, labels, boxes, scores or masks differ.
    """
    if name != SAME:
        return {}
    images = [key.partition(" ")[2] for key in ours if key.startswith("boxes ")]
    if not any(len(ours[f"boxes {image}"]) for image in images):
        raise UnequalResultsError("nothing was detected that could be compared; nothing was timed")
    distances = {"boxes": 0.0, "scores": 0.0, "masks": 0.0}
    for image in images:
        pair = [{kind: each[f"{kind} {image}"] for kind in KINDS} for each in (ours, theirs)]
        for kind, distance in _distances(image, *pair).items():
            distances[kind] = max(distances[kind], distance)
    return distances


KINDS = ("boxes", "scores", "labels", "masks")


def _distances(image: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    order = _partners(ours, theirs) if len(ours["boxes"]) == len(theirs["boxes"]) else None
    if order is None:
        raise UnequalResultsError(
            f"{SAME} and ours detect other things on image {image}: {len(theirs['boxes'])} and "
            f"{len(ours['boxes'])} objects, of which not all pair up; nothing was timed"
        )
    different = np.bitwise_count(ours["masks"] ^ theirs["masks"][order]).sum()
    found = {
        "boxes": float(np.abs(ours["boxes"] - theirs["boxes"][order]).max(initial=0)),
        "scores": float(np.abs(ours["scores"] - theirs["scores"][order]).max(initial=0)),
        "masks": float(different / max(np.bitwise_count(ours["masks"]).sum(), 1)),
    }
    limits = {"boxes": BOX_TOLERANCE, "scores": SCORE_TOLERANCE, "masks": MASK_TOLERANCE}
    for kind, limit in limits.items():
        if not found[kind] <= limit:
            raise UnequalResultsError(
                f"{SAME} and ours differ in the {kind} of image {image}: they differ by "
                f"{found[kind]:.3g}, at most {limit:g} is allowed; nothing was timed"
            )
    return found


def _partners(ours: Arrays, theirs: Arrays) -> np.ndarray | None:
    """For each of our detections, theirs of the same class that is nearest; None if two share one.

    Detections come in the order of their scores, which may be equal to rounding.
    """
    gaps = np.abs(ours["boxes"][:, None] - theirs["boxes"][None]).max(-1)
    gaps[ours["labels"][:, None] != theirs["labels"][None]] = np.inf
    order = gaps.argmin(1) if len(gaps) else np.zeros(0, dtype=int)
    return order if len({*order.tolist()}) == len(order) else None


def _images_per_second(results: Results, name: str) -> str:
    return f"{results.facts[name]['images'] / results.median_seconds(name):.3f}"


def _published(results: Results, name: str) -> str:
    ratio = results.facts[name].get("published_ratio")
    return UNKNOWN if ratio is None else f"{ratio:.2f}"
