"""Trained detectors beside each other: what pruning saves in time, and not only in counts."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import roofline
from benchmarks.comparison import at_least, run
from benchmarks.report import Report, fact_column
from benchmarks.worker import BenchmarkError, Candidate
from mmconvnext.analysis.flops import count_flops
from mmconvnext.data.paths import leaf_datasets, picture_folder
from mmconvnext.engine.config import load_config
from mmconvnext.engine.run_dir import find_run
from mmconvnext.inference.detector import Detector
from mmconvnext.inference.inputs import find_inputs

WHOLE, BACKBONE = "detector", "backbone"
COLUMNS = (
    fact_column("images/s", "images", form=".3f", per_second=True),
    fact_column("multiply-adds, G", "multiply_adds", 1e9, ".1f"),
    fact_column("parameters, M", "parameters", 1e6, ".1f"),
)
NOTES = (
    "detector: from a picture's file to its masks; backbone: the feature maps of the same pictures",
    "multiply-adds and parameters are counted, those of `mmconvnext flops` for the first picture",
)


class Trained:
    """The factory of the comparison, see :class:`benchmarks.worker.Candidate`.

    Args:
        folder: of a training, or what ``mmconvnext prune`` wrote.
        pictures: paths.
        part: ``WHOLE`` or ``BACKBONE``.
        device: in torch's words.
    """

    def __init__(self, folder: str, pictures: Sequence[str], part: str, device: str):
        with contextlib.redirect_stdout(io.StringIO()):
            self._detector = Detector(folder, device=device, batch=1)
        self._pictures, self._part = pictures, part
        self._inputs: list[Tensor] = []
        backbone = self._detector.model.backbone
        handle = backbone.register_forward_pre_hook(lambda _, args: self._inputs.append(args[0]))
        self._objects = self._predict()
        handle.remove()

    def run(self) -> None:
        """Go through all pictures."""
        if self._part == WHOLE:
            self._predict()
            return
        with torch.inference_mode():
            for inputs in self._inputs:
                self._detector.model.backbone(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize()

    def facts(self) -> dict[str, float]:
        """Return pictures, objects found, and the counts of the part."""
        cost = count_flops(self._detector.model, tuple(self._inputs[0].shape[-2:]))
        if self._part == BACKBONE:
            cost = next(part for part in cost.parts if part.name == BACKBONE)
        return {
            "images": len(self._pictures),
            "objects": self._objects,
            "multiply_adds": cost.flops,
            "parameters": cost.params,
        }

    def _predict(self) -> int:
        return sum(len(found) for found in self._detector.predict(self._pictures))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    text = "work folders of trainings, or of `mmconvnext prune`; the first one is compared with"
    add("runs", nargs="+", metavar="RUN_DIR", help=text)
    add("--pictures", nargs="+", help="files or folders; default: the first run's test pictures")
    add("--images", type=at_least(1), default=8, help="of a run; default: %(default)s")
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Measure detectors and their backbones; may raise BenchmarkError."""
    device, names = roofline.choose_device(args.device), [str(Path(each)) for each in args.runs]
    if len({*names}) < 2:
        raise BenchmarkError(f"{' '.join(args.runs)}: give two different folders or more")
    configs = [find_run(Path(name)).config for name in names]
    test = load_config(str(configs[0])).test_dataloader.dataset
    pictures = args.pictures or [str(picture_folder(leaf_datasets(test)[0]))]
    inputs = [each for each in find_inputs(pictures) if not each.is_stream]
    work = {"pictures": [each.source for each in inputs[: args.images]]}
    tables = []
    for part in (WHOLE, BACKBONE):
        arguments = {**work, "part": part, "device": device}
        chosen = [Candidate(name, Trained, {"folder": name, **arguments}) for name in names]
        title = f"{part}, {len(work['pictures'])} pictures, {device}"
        tables.append(run(chosen, args, title=title))
    return Report(tables, COLUMNS, NOTES, first=names[0])
