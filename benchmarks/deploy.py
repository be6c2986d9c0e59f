"""The comparison of runtimes: detectors in PyTorch, and the files that are exported of them."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.comparison import (
    OURS,
    VAL,
    Arrays,
    Results,
    add_data_arguments,
    check_coco,
    demand,
    run,
    say,
)
from benchmarks.detector import DETECTORS, SAME, check_same
from benchmarks.report import MIB, UNKNOWN, Column, Report, fact_column
from benchmarks.runtimes import CHECKPOINT, SHAPE, Eager, Exported, Prepared, Profile
from benchmarks.worker import Candidate, Process, python_path
from mmconvnext.analysis.parity import BOX, MASK, SCORE
from mmconvnext.deploy.quantize import PRECISIONS
from mmconvnext.deploy.sessions import SUFFIXES, unsupported

GROUPS = {"Mask T": "mask_rcnn", "Cascade T": "cascade"}


class File(NamedTuple):
    """A file of a detector: the package that runs it, and the speed / ours that is aimed at.

    With ``to`` it is made by ``mmconvnext quantize`` of the ``source`` of ``mmconvnext export``.
    """

    source: str
    needs: str
    goal: float | None = None
    to: str | None = None

    @property
    def name(self) -> str:
        """Of the file."""
        return self.source if self.to is None else self.to + Path(self.source).suffix


EXPORTED: Mapping[str, File] = {
    "torch.export": File("detector.pt2", "torch"),
    "ONNX Runtime": File("detector.onnx", "onnxruntime"),
    "ONNX Runtime int8": File("detector.onnx", "onnxruntime", to="int8"),
    "OpenVINO fp32": File("detector.xml", "openvino", goal=1.3),
    "OpenVINO bf16": File("detector.xml", "openvino", goal=2.4, to="bf16"),
    "OpenVINO int8": File("detector.xml", "openvino", goal=3.0, to="int8"),
}
KINDS = {suffix: kind for kind, suffix in SUFFIXES.items()}
COMPILED = "torch.compile"
FORMS = (SAME, COMPILED, *EXPORTED)
LIMITS = {"boxes": BOX, "scores": SCORE, "masks": MASK}
NOTES = (
    f"pictures of {SHAPE[0]} x {SHAPE[1]}, which are not resized; from pixels to pasted masks, one "
    "picture at a time; detectors have random weights, and the same ones in a table",
    "start-up: imports, opening, and detecting on the first picture (exported files paste masks "
    "when they are asked for); resident: the most memory of the whole process until then",
    "peak: above what the process has at rest",
    "int8 and bf16 find other things with random weights, so that nothing of them is compared here",
)


def _speed(results: Results, name: str) -> str:
    return f"{1 / results.median_ratio(name):.2f}"


def _goal(results: Results, name: str) -> str:
    goal = results.facts[name].get("goal")
    if goal is None:
        return UNKNOWN
    return f"{goal:g}: {'met' if 1 / results.median_ratio(name) >= goal else 'MISSED'}"


COLUMNS = (
    fact_column("images/s", "images", form=".3f", per_second=True),
    Column("speed / ours", _speed),
    Column("goal", _goal),
    fact_column("file MiB", "size", MIB, ".0f"),
    fact_column("start-up s", "startup", form=".1f"),
    fact_column("resident MiB", "resident", MIB, ".0f"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    add("--groups", nargs="+", choices=GROUPS, default=[*GROUPS], help="default: both")
    add("--forms", nargs="+", choices=FORMS, default=[*FORMS], help="default: all")
    add("--profile", action="store_true", help="where OpenVINO's time goes, by kind of layer")
    add_data_arguments(parser, images=2)


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each group of the command line; may raise BenchmarkError."""
    check_coco(args.data_root, *VAL)
    tables, profiles = [], {}
    for group in args.groups:
        kind = GROUPS[group]
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            files = {form: EXPORTED[form] for form in args.forms if form in EXPORTED}
            _prepare(DETECTORS[kind][OURS][0], folder, [*files.values()], args)
            if args.profile:
                for form, file in files.items():
                    if file.needs == "openvino":
                        name = f"{group}, {form}, by kind of layer"
                        profiles[name] = _profile(folder, file.name, args.threads)
            title = f"{group}, {args.images} pictures of {SHAPE[0]} x {SHAPE[1]}, cpu"
            tables.append(run(candidates(kind, folder, args), args, check, title))
    return Report(tables, COLUMNS, (*NOTES, *_precisions(args.forms)), summary=profiles)


def candidates(kind: str, folder: str, args: argparse.Namespace) -> list[Candidate]:
    """Describe the forms of a detector, ours in PyTorch first."""
    common = {"folder": folder, "threads": args.threads}
    eager = {"config": DETECTORS[kind][OURS][0], "files": [CHECKPOINT], **common}
    chosen = [Candidate(OURS, Eager, eager)]
    for form in args.forms:
        if form == SAME:
            peer = {"peer": DETECTORS[kind][SAME][0]}
            chosen.append(Candidate(SAME, Eager, {**eager, **peer}, python_path("mmpretrain")))
        elif form == COMPILED:
            chosen.append(Candidate(COMPILED, Eager, {**eager, "compiled": True}))
        else:
            file = EXPORTED[form]
            weights = [str(Path(file.name).with_suffix(".bin"))] * (file.needs == "openvino")
            facts = {} if file.goal is None else {"goal": file.goal}
            arguments = {"files": [file.name, *weights], "needs": file.needs, **common}
            chosen.append(Candidate(form, Exported, arguments, facts=facts))
    return chosen


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same detections as ours, to the limits of ``mmconvnext export --check``.

    Of lower precision, that something is detected.
    """
    if name in EXPORTED and EXPORTED[name].to:
        images = [key for key in theirs if key.startswith("boxes ")]
        demand(all(len(theirs[key]) for key in images), f"{name} detects nothing on an image")
        return {}
    return check_same(name, ours, theirs, LIMITS)


def _prepare(config: str, folder: str, files: Sequence[File], args: argparse.Namespace) -> None:
    """Write the files in a process whose memory is given back."""
    say(f"exporting {config}: {', '.join(file.name for file in files) or 'nothing'}")
    exported = {file.source: KINDS[Path(file.source).suffix] for file in files}
    quantized = [(file.source, file.to, file.name) for file in files if file.to]
    work = {"data_root": args.data_root, "images": args.images}
    arguments = {"config": config, "folder": folder, **work}
    arguments |= {"exported": exported, "quantized": quantized}
    with Process(Candidate("exporting", Prepared, arguments), args.threads) as process:
        process.wait_until_built()


def _profile(folder: str, file: str, threads: int) -> Sequence[Sequence[str]]:
    """Rows of a table: kinds of layers, those that take the longest first."""
    arguments = {"folder": folder, "file": file}
    with Process(Candidate("profile", Profile, arguments), threads) as process:
        found = process.call("facts")
    total = sum(found.values())
    rows = [("", "ms", "share")]
    for kind, spent in sorted(found.items(), key=lambda each: -each[1]):
        if spent >= total / 100:
            rows.append((kind, f"{spent:.1f}", f"{spent / total:.1%}"))
    return [*rows, ("all", f"{total:.1f}", "100.0%")]


def _precisions(forms: Sequence[str]) -> Sequence[str]:
    """What OpenVINO says of this CPU, and of precisions that it has no instructions for."""
    if importlib.util.find_spec("openvino") is None:
        return []
    import openvino

    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    version = openvino.__version__.partition("-")[0]
    files = [EXPORTED[form] for form in forms if form in EXPORTED]
    chosen = [PRECISIONS[file.to] for file in files if file.to and file.needs == "openvino"]
    remarks = filter(None, map(unsupported, chosen))
    return [f"OpenVINO {version} on this CPU: {', '.join(found)}", *remarks]
