"""Scaling: time and memory against input area, batch and model size, and one and two processes.

The points of a curve are the candidates of a comparison: they alternate, so that a machine that
becomes slower becomes so for all of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import scaling_plans, schedule
from benchmarks.backbones import TOLERANCE
from benchmarks.comparison import BenchmarkError, Results, close_to, run
from benchmarks.detectors import CONFIGS
from benchmarks.devices import choose_device
from benchmarks.scaling_curves import Curve
from benchmarks.scaling_plans import FULL, QUICK, Plan, Sweep
from benchmarks.scaling_report import ScalingReport
from mmconvnext.errors import UserError

BACKBONE, DETECTOR, PROCESSES = PARTS = ("backbone", "detector", "processes")
ROUNDS = 3  # there are many comparisons


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(rounds=ROUNDS)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default: all"
    )
    parser.add_argument("--data-root", default="data/coco/", help="folder of COCO 2017")
    parser.add_argument("--out", metavar="DIR", help="write scaling.md and its pictures there, too")
    parser.add_argument("--quick", action="store_true", help="few and small: to try the command")
    parser.add_argument("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> ScalingReport:
    """Measure what the command line names, and write the page if it names a folder.

    Raises:
        UserError: an argument is wrong, a comparison failed, or the page cannot be written.
    """
    plan, device = QUICK if args.quick else FULL, choose_device(args.device)
    _check(args, plan)
    options = {"rounds": args.rounds, "warmup": args.warmup, "threads": args.threads}
    sweeps = _sweeps(args, plan, device)
    total = len(sweeps) + (PROCESSES in args.parts)
    curves = []
    for index, sweep in enumerate(sweeps):
        _say(f"comparison {index + 1} of {total}: {sweep.title}")
        curves.append(measure(sweep, **options))
    processes = None
    if PROCESSES in args.parts:
        _say(f"comparison {total} of {total}: training in one and two processes")
        processes = share_work(plan, **options)
    report = ScalingReport(curves, processes, schedule.costs())
    if args.out:
        from benchmarks.scaling_page import write_page  # imports matplotlib

        for path in write_page(report, Path(args.out)):
            _say(f"written to {path}")
    return report


def measure(sweep: Sweep, **options: int) -> Curve:
    """Let the points of a curve alternate.

    Args:
        sweep: the curve.
        options: ``rounds``, ``warmup`` and ``threads`` of :func:`benchmarks.comparison.run`.
    """
    results = run(sweep.candidates, title=sweep.title, **options)
    for name, facts in sweep.facts.items():
        results.facts[name].update(facts)
    return Curve(sweep.part, sweep.along, sweep.train, results)


def share_work(plan: Plan, **options: int) -> Results:
    """Let training steps in one and two processes alternate, once their gradients are equal.

    Args:
        plan: has model, image size and batch.
        options: see :func:`measure`.

    Raises:
        UnequalResultsError: the gradients differ.
    """
    return run(
        scaling_plans.processes(plan, options["threads"]),
        check=close_to(TOLERANCE, lambda _: "gradients"),
        title=f"ConvNeXt {plan.archs[0]}, training steps with {plan.step} images of "
        f"{plan.side}x{plan.side}, gloo, cpu",
        **options,
    )


def _sweeps(args: argparse.Namespace, plan: Plan, device: str) -> list[Sweep]:
    sweeps = []
    if BACKBONE in args.parts:
        sweeps += scaling_plans.backbone_sweeps(plan, device)
    if DETECTOR in args.parts:
        sweeps += scaling_plans.detector_sweeps(plan, args.data_root, device)
    return sweeps


def _check(args: argparse.Namespace, plan: Plan) -> None:
    """Find mistakes before minutes are spent on measuring."""
    if PROCESSES in args.parts and args.threads < 2:
        raise BenchmarkError(
            f"--threads {args.threads} must be at least 2, one for each of two processes; without "
            f"them: --parts {BACKBONE} {DETECTOR}"
        )
    if DETECTOR in args.parts:
        _check_data(plan, args.data_root)
    if args.out:
        try:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out} cannot be made: {error.strerror}") from error


def _check_data(plan: Plan, data_root: str) -> None:
    from mmconvnext.data.checks import check_data_paths
    from mmconvnext.engine.config import load_config, set_data_root

    cfg = load_config(str(CONFIGS / plan.detector))
    set_data_root(cfg, data_root)
    check_data_paths(cfg, ("test",))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
