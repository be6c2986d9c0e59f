"""The comparison of data pipelines: ours, and the same made of MMDetection's transforms."""

from __future__ import annotations

import argparse
import contextlib
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmdet.datasets  # noqa: F401  registers
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures.mask import BaseInstanceMasks, PolygonMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils.dl_utils import set_multi_processing
from numpy.typing import NDArray

from benchmarks.comparison import OURS, Arrays, add_data_arguments, check_coco, demand, run
from benchmarks.report import Column, Report, fact_column
from benchmarks.worker import Candidate

DATASETS_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "_base_" / "datasets"
BITMAPS, POLYGONS = "MMDetection, its default", "MMDetection, poly2mask=False"
IMAGES = "images alone"
KINDS = (OURS, BITMAPS, POLYGONS, IMAGES)
# What needs objects, or makes tensors of what is there.
WITHOUT_OBJECTS = ("FastLoadAnnotations", "FilterAnnotations", "FastPackDetInputs")
MOST_CHECKED = 40  # images
SAMPLES = 8  # a side of a pixel, to see how much of it is inside of an outline
# As chosen -> the config, and whether its pipeline takes boxes anew from the masks.
RECIPES: Mapping[str, tuple[str, bool]] = {
    "coco_instance": ("coco_instance", False),
    "lsj": ("coco_instance_lsj", True),
}
TRAIN = ("annotations/instances_train2017.json", "train2017")
BOX_TOLERANCE = 1e-3  # pixels
LEAST_MEAN_IOU = 0.99
# Where boxes are taken anew from bitmaps, see NOTES: the share of the boxes that must be near, and
# that of the objects which one pipeline alone may keep.
LEAST_NEAR, MOST_ALONE = 0.9, 0.01
NOTES = (
    "each is one worker of a data loader: no threads of OpenCV, as MMEngine sets it",
    "images alone: ours without objects and packing",
    "images are equal to the bit and objects are the same; distance: of boxes in pixels, the "
    "largest; of masks, 1 - mean IoU",
    "MMDetection's default draws masks at the file's size and resizes them by nearest neighbours; "
    "outline: the pixels of which at least half is inside the polygons",
    "where a recipe takes boxes anew from the masks (lsj), those of bitmaps are whole pixels: at "
    f"least {LEAST_NEAR:.0%} must be as near as one pixel of the file and one of the image; the "
    "rest are of parts thinner than a pixel, which bitmaps lose",
)
COLUMNS = (
    fact_column("images/s", "images", form=".0f", per_second=True),
    Column(f"of it {IMAGES}", lambda r, name: f"{r.median_ratio(IMAGES, base=name):.0%}"),
    fact_column("objects", "objects", form=".0f"),
    fact_column("IoU with our masks: 1 %", "iou_1_percent", form=".3f"),
    fact_column("median", "iou_median", form=".4f"),
    fact_column("mean", "iou_mean", form=".4f"),
    fact_column("mean with outlines", "iou_mean_of_outlines", form=".4f"),
    fact_column("box pixels, median", "box_median", form=".2g"),
    fact_column("objects in one only", "alone", form=".0f"),
)


class Pipeline:
    """The factory of a data pipeline, see :class:`benchmarks.worker.Candidate`.

    What is timed is what a worker of a data loader does for each image: reading, decoding,
    augmenting and packing it. The random numbers are those of the image, whatever comes before it.
    Where the training split of COCO in ``data_root`` has less images, they come again.

    ``kind`` is ``OURS``, as the config has it; ``BITMAPS`` and ``POLYGONS``, MMDetection's
    transforms in place of ours with ``poly2mask`` True (its default) and False; or ``IMAGES``, ours
    without objects and without packing.
    """

    def __init__(self, recipe: str, kind: str, data_root: str, images: int):
        set_multi_processing()  # MMEngine's defaults, ours too: no threads of OpenCV
        config = Config.fromfile(DATASETS_FOLDER / f"{recipe}.py").train_dataloader.dataset
        config.data_root = data_root
        config.pipeline = steps(config.pipeline, kind)
        quiet = contextlib.redirect_stdout(io.StringIO())
        with DefaultScope.overwrite_default_scope("mmdet"), quiet:
            self._dataset = DATASETS.build(config)
        self._kind, self._images = kind, images

    def run(self) -> None:
        """Go through all images."""
        for image in range(self._images):
            _seed(image)
            self._dataset[image % len(self._dataset)]

    def check(self) -> dict[str, np.ndarray]:
        """Return what comes out for the first images that the pipeline does not drop.

        For each: ``image I``, of shape (channels, height, width); ``scale I``, how many of its
        pixels a pixel of the file takes; of its object number N ``box I N`` in pixels and ``mask I
        N`` at the image's size, eight pixels in a byte, from ours also ``outline I N``, all pixels
        of which at least half is inside; and ``ignored I N``, a box that training ignores.
        """
        arrays: dict[str, np.ndarray] = {}
        for image in range(min(self._images, MOST_CHECKED)):
            data = self._dataset.get_data_info(image % len(self._dataset))
            for number, instance in enumerate(data["instances"]):
                instance["bbox_label"] = number  # to know which is which, where some are dropped
            _seed(image)
            found = self._dataset.pipeline(data)
            if found is None:
                continue
            sample = found["data_samples"]
            objects, ignored = sample.gt_instances, sample.ignored_instances
            checked = {
                "box": (objects, objects.bboxes.tensor.numpy()),
                "mask": (objects, np.packbits(objects.masks.to_ndarray().astype(bool), axis=-1)),
                "ignored": (ignored, ignored.bboxes.tensor.numpy()),
            }
            if self._kind == OURS:
                checked["outline"] = (objects, np.packbits(outlines(objects.masks), axis=-1))
            arrays[f"image {image}"] = found["inputs"].numpy()
            arrays[f"scale {image}"] = np.array(sample.scale_factor[0])
            for key, (instances, values) in checked.items():
                pairs = zip(instances.labels.tolist(), values, strict=True)
                arrays |= {f"{key} {image} {number}": value for number, value in pairs}
        return arrays

    def facts(self) -> dict[str, float]:
        """Return how many images there are."""
        return {"images": self._images}


def steps(pipeline: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The transforms of a candidate, made of those of our config; ``kind`` as for a pipeline."""
    if kind == OURS:
        return pipeline
    if kind == IMAGES:
        return [step for step in pipeline if step["type"] not in WITHOUT_OBJECTS]
    theirs = [{**step, "type": step["type"].removeprefix("Fast")} for step in pipeline]
    for step in theirs:
        if step["type"] == "LoadAnnotations":
            step["poly2mask"] = kind == BITMAPS
    return theirs


def outlines(masks: BaseInstanceMasks) -> NDArray:
    """Draw each object (N, H, W) finely, and take the pixels of which at least half is inside."""
    if not isinstance(masks, PolygonMasks):  # bitmaps have no outline
        return masks.to_ndarray().astype(bool)
    drawn = np.zeros((len(masks), masks.height, masks.width), dtype=bool)
    boxes = masks.get_bboxes("hbox").tensor.numpy()
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    windows = np.concatenate([low, np.maximum(high, low + 1)], axis=1).astype(int)
    for number, (x1, y1, x2, y2) in enumerate(windows):
        window = masks[[number]].crop(np.array([x1, y1, x2, y2]))
        height, width = window.height, window.width
        fine = window.resize((height * SAMPLES, width * SAMPLES)).to_ndarray()[0]
        inside = fine.reshape(height, SAMPLES, width, SAMPLES).mean((1, 3)) >= 0.5
        drawn[number, y1:y2, x1:x2] = inside
    return drawn


def _seed(image: int) -> None:
    """Whatever a transform asks for a random number gives the same for all candidates."""
    random.seed(image)
    np.random.seed(image)
    torch.default_generator.manual_seed(image)  # torch.manual_seed formats a traceback for CUDA


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(threads=1)  # as in a worker of a data loader
    recipes = {"choices": RECIPES, "default": [*RECIPES], "help": "default: both"}
    parser.add_argument("--recipe", nargs="+", **recipes)
    add_data_arguments(parser, images=80, split="train2017")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each recipe that the command line names; may raise BenchmarkError."""
    check_coco(args.data_root, *TRAIN)
    tables = []
    for config, recomputed in map(RECIPES.get, args.recipe):
        arguments = {"recipe": config, "data_root": args.data_root, "images": args.images}
        candidates = [
            Candidate(kind, Pipeline, {"kind": kind, **arguments}, compared=kind != IMAGES)
            for kind in KINDS
        ]
        equality = Equality(recomputed)
        title = f"{config}, {args.images} images of train2017"
        results = run(candidates, args, equality, title)
        for name, facts in equality.facts.items():
            results.facts[name] |= facts
        tables.append(results)
    return Report(tables, COLUMNS, NOTES)


class Equality:
    """Demands the same images and objects, and tells how near boxes and masks are.

    Where MMDetection keeps polygons, too, they must be ours. Its bitmaps are rounded to the file's
    pixels before they are resized; there our masks must be as near to the outlines as they are.
    """

    def __init__(self, recomputed: bool):
        self.recomputed = recomputed  # boxes are taken anew from the masks
        self.facts: dict[str, dict[str, float]] = {}  # what was found, by candidate

    def __call__(self, name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        """Compare what the pipelines gave; may raise UnequalResultsError."""
        for image in _common("image", ours, theirs):
            demand(np.array_equal(ours[image], theirs[image]), f"{image} of {name} is another")
        boxes = _common("box", ours, theirs)
        demand(boxes, f"{name} and ours have no objects in common")
        masks, others, outline = (
            [each[key.replace("box", kind)] for key in boxes]
            for each, kind in ((ours, "mask"), (theirs, "mask"), (ours, "outline"))
        )
        ious = _ious(masks, others)
        of_theirs, of_ours = (float(_ious(each, outline).mean()) for each in (others, masks))
        if name == BITMAPS:
            demand(
                of_ours >= of_theirs,
                f"mean IoU with the outlines is {of_theirs:.4f} for {name}, {of_ours:.4f} for ours",
            )
        else:
            demand(
                ious.mean() >= LEAST_MEAN_IOU,
                f"the masks of {name} have a mean IoU of {ious.mean():.4f} with ours, at least "
                f"{LEAST_MEAN_IOU} is demanded",
            )
        self.facts.setdefault(OURS, {"iou_mean_of_outlines": of_ours})
        self.facts[name] = {
            "objects": len(ious),
            "iou_1_percent": float(np.quantile(ious, 0.01)),
            "iou_median": float(np.median(ious)),
            "iou_mean": float(ious.mean()),
            "iou_mean_of_outlines": of_theirs,
            **self._compare_boxes(name, ours, theirs),
        }
        return {"boxes": self.facts[name]["box_max"], "masks": 1 - self.facts[name]["iou_mean"]}

    def _compare_boxes(self, name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
        # with poly2mask=False MMDetection loses the masks of crowds, and boxes with them
        kinds = ("box", "ignored") if name == BITMAPS else ("box",)
        boxes = [key for kind in kinds for key in _common(kind, ours, theirs)]
        alone = sum(key.startswith(kinds) for key in {*ours} ^ {*theirs})
        gaps = np.array([np.abs(ours[key] - theirs[key]).max() for key in boxes])
        limit, least, most_alone = BOX_TOLERANCE, 1.0, 0.0
        if self.recomputed and name == BITMAPS:
            limit = 1 + np.array([ours[f"scale {key.split()[1]}"] for key in boxes])
            least, most_alone = LEAST_NEAR, MOST_ALONE * len(gaps)
        near = np.mean(gaps <= limit)
        demand(
            near >= least and alone <= most_alone,
            f"of {len(gaps)} boxes of {name}, {near:.1%} are near ours, at least {least:.0%} must "
            f"be, and they differ by up to {gaps.max():.3g} pixels; {alone} objects are in one of "
            f"both only, at most {most_alone:.0f} may be",
        )
        return {"alone": alone, "box_median": float(np.median(gaps)), "box_max": float(gaps.max())}


def _common(kind: str, ours: Arrays, theirs: Arrays) -> list[str]:
    return [key for key in ours if key.startswith(f"{kind} ") and key in theirs]


def _ious(masks: Sequence[NDArray], others: Sequence[NDArray]) -> NDArray:
    """IoU of each object's masks, eight pixels in a byte, without those empty in both."""
    counts = [
        [np.bitwise_count(pixels).sum() for pixels in (mask & other, mask | other)]
        for mask, other in zip(masks, others, strict=True)
    ]
    return np.array([common / union for common, union in counts if union])
