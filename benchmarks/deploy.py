"""The comparison of runtimes: detectors in PyTorch, and the files that are exported of them."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.comparison import (
    OURS,
    VAL,
    Arrays,
    Results,
    add_data_arguments,
    check_coco,
    run,
    say,
)
from benchmarks.detector import DETECTORS, SAME, check_same
from benchmarks.report import MIB, UNKNOWN, Column, Report, fact_column
from benchmarks.runtimes import CHECKPOINT, SHAPE, Eager, Exported, Prepared, Profile
from benchmarks.worker import Candidate, Process, python_path
from mmconvnext.analysis.parity import BOX, MASK, SCORE

GROUPS = {"Mask T": "mask_rcnn", "Cascade T": "cascade"}
# name -> file, `--to` of export, the package that runs it, the speed / ours that is aimed at
EXPORTED: Mapping[str, tuple[str, str, str, float | None]] = {
    "torch.export": ("detector.pt2", "torch-export", "torch", None),
    "ONNX Runtime": ("detector.onnx", "onnx", "onnxruntime", None),
    "OpenVINO fp32": ("detector.xml", "openvino", "openvino", 1.3),
}
COMPILED = "torch.compile"
FORMS = (SAME, COMPILED, *EXPORTED)
LIMITS = {"boxes": BOX, "scores": SCORE, "masks": MASK}
NOTES = (
    f"pictures of {SHAPE[0]} x {SHAPE[1]}, which are not resized; from pixels to pasted masks, one "
    "picture at a time; detectors have random weights, and the same ones in a table",
    "start-up: imports, opening, and detecting on the first picture (exported files paste masks "
    "when they are asked for); resident: the most memory of the whole process until then",
    "peak: above what the process has at rest",
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
            forms = [form for form in args.forms if form in EXPORTED]
            targets = {EXPORTED[form][0]: EXPORTED[form][1] for form in forms}
            _prepare(DETECTORS[kind][OURS][0], folder, targets, args)
            title = f"{group}, {args.images} pictures of {SHAPE[0]} x {SHAPE[1]}, cpu"
            tables.append(run(candidates(kind, folder, args), args, check, title))
            if args.profile:
                for form in forms:
                    if EXPORTED[form][2] == "openvino":
                        name = f"{group}, {form}, by kind of layer"
                        profiles[name] = _profile(folder, EXPORTED[form][0], args.threads)
    return Report(tables, COLUMNS, (*NOTES, *_capabilities()), summary=profiles)


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
            file, _, needs, goal = EXPORTED[form]
            files = [file, str(Path(file).with_suffix(".bin"))] if needs == "openvino" else [file]
            facts = {} if goal is None else {"goal": goal}
            arguments = {"files": files, "needs": needs, **common}
            chosen.append(Candidate(form, Exported, arguments, facts=facts))
    return chosen


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same detections as ours, to the limits of ``mmconvnext export --check``."""
    return check_same(name, ours, theirs, LIMITS)


def _prepare(
    config: str, folder: str, targets: Mapping[str, str], args: argparse.Namespace
) -> None:
    """Write the files in a process whose memory is given back."""
    say(f"exporting {config}: {', '.join(targets) or 'nothing'}")
    work = {"data_root": args.data_root, "images": args.images}
    arguments = {"config": config, "folder": folder, "targets": dict(targets), **work}
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


def _capabilities() -> Sequence[str]:
    """What OpenVINO says of this CPU: without BF16 in it, bf16 is not computed as such."""
    if importlib.util.find_spec("openvino") is None:
        return []
    import openvino

    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [f"OpenVINO {openvino.__version__.partition('-')[0]} on this CPU: {', '.join(found)}"]
