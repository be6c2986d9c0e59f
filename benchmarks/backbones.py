"""The comparison of backbones: ConvNeXt of several libraries, in inference and in training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import speed
from benchmarks.backbone_peers import LIBRARIES, OURS, OURS_PLAIN, PEERS
from benchmarks.comparison import BenchmarkError, Candidate, Check, Results, close_to, run
from benchmarks.devices import choose_device
from benchmarks.report import MIB, Column, Report
from benchmarks.roofline import PEERS as FOLDER_OF_PEERS
from benchmarks.roofline import measure, reference
from mmconvnext.variants import resolve_arch

FACTORY = "benchmarks.backbone_candidate:Backbone"
SHAPE = (800, 1280)
DTYPES = ("float32", "bfloat16", "float16")
# Of the relative L2 distance; in half precision, two computations with errors of their own.
TOLERANCE = 1e-4
HALF_TOLERANCE = 3e-2
LEAST_SIDE = 32  # a pixel of the last stage
# Forward, and as much again for the gradients of the features and of the weights.
FORWARD_PASSES_OF_STEP = 3


@dataclass(frozen=True)
class Task:
    """What all candidates of a table do.

    Attributes:
        arch: see :class:`mmconvnext.ConvNeXt`.
        dtype: ``float32``, or what autocast computes in.
        shape: height and width of the image in pixels.
        batch: number of images.
        train: forward and backward, else forward alone.
        device: in torch's words.
    """

    arch: str | Mapping[str, Sequence[int]]
    dtype: str = "float32"
    shape: tuple[int, int] = SHAPE
    batch: int = 1
    train: bool = False
    device: str = "cpu"

    @property
    def title(self) -> str:
        """Say it in a line."""
        what = "forward + backward" if self.train else "forward"
        dtype = self.dtype if self.dtype == "float32" else f"{self.dtype} autocast"
        size = f"{self.batch}x3x{self.shape[0]}x{self.shape[1]}"
        return f"ConvNeXt {self.arch}, {what}, {dtype}, {size}, {self.device}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--arch", nargs="+", default=["tiny"], help="tiny, small, base, …; default: tiny"
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="others: under autocast"
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        default=SHAPE,
        metavar=("H", "W"),
        help="height and width of the image in pixels; default: 800 1280",
    )
    parser.add_argument("--batch", type=int, help="images; default: 1, in training 2")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument(
        "--peers", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="default: all"
    )
    parser.add_argument("--plain", action="store_true", help="ours layer by layer, too")
    parser.add_argument("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each size and type that the command line names.

    Raises:
        BenchmarkError: an argument is wrong, or a comparison failed.
    """
    device = choose_device(args.device)
    batch = args.batch or (2 if args.train else 1)
    tasks = [
        Task(arch, dtype, tuple(args.shape), batch, args.train, device)
        for arch in args.arch
        for dtype in args.dtype
    ]
    names = chosen(args.peers, args.plain)
    comparisons = [candidates(task, names) for task in tasks]  # finds mistakes before it measures
    limits = measure(device, args.threads)
    tables = [
        compare_one(task, each, rounds=args.rounds, warmup=args.warmup, threads=args.threads)
        for task, each in zip(tasks, comparisons, strict=True)
    ]
    columns = [Column("saved MiB (/ ours)", _saved)] if args.train else []
    notes = [*_notes(args.train), speed.note(tables), *limits.lines()]
    return Report(tables, [*columns, *speed.columns()], notes)


def chosen(libraries: Sequence[str], plain: bool) -> list[str]:
    """The names of candidates in the table's order.

    Args:
        libraries: of the peers; timm takes part in both memory formats.
        plain: whether ours takes part layer by layer, too.
    """
    ours = [OURS, OURS_PLAIN] if plain else [OURS]
    return [*ours, *(name for name in PEERS if name.partition(",")[0] in libraries)]


def candidates(task: Task, names: Sequence[str]) -> list[Candidate]:
    """Describe candidates, see :class:`benchmarks.backbone_candidate.Backbone`.

    Args:
        task: what they do.
        names: keys of ``PEERS``, ours first.

    Raises:
        BenchmarkError: the task cannot be done.
    """
    _check(task)
    depths, widths = _resolve(task.arch)
    arguments = {
        "depths": depths,
        "widths": widths,
        "shape": task.shape,
        "batch": task.batch,
        "dtype": task.dtype,
        "train": task.train,
        "device": task.device,
    }
    return [
        Candidate(name, FACTORY, {"peer": name, **arguments}, _python_path(name)) for name in names
    ]


def compare_one(task: Task, candidates: Sequence[Candidate], **options: int) -> Results:
    """Compare, then time; the machine's matrix product alternates with the candidates.

    Args:
        task: what the candidates do.
        candidates: ours first.
        options: ``rounds``, ``warmup`` and ``threads`` of :func:`benchmarks.comparison.run`.

    Returns:
        With the fact ``flops``, those of :func:`benchmarks.speed.relate_to_gemm`, and in
        training ``saved_bytes``.
    """
    gemm = reference(task.device, task.dtype)
    options_of_run = {"check": equality(task), "title": task.title, "reference": gemm, **options}
    results = run(candidates, **options_of_run)
    flops = count_flops(task)
    for facts in results.facts.values():
        facts["flops"] = flops
    speed.relate_to_gemm(results)
    return results


def equality(task: Task) -> Check:
    """How near the results must be: each map, and in training each gradient.

    In half precision all gradients are taken together: a norm's parameters sum up gradients of all
    positions that nearly cancel, and alone they differ by 5 % from float32 in every library.
    """

    def kind(name: str) -> str:
        return name.partition(" ")[0]

    if task.dtype == "float32":
        return close_to(TOLERANCE, kind)
    return close_to(HALF_TOLERANCE, kind, together=True)


def count_flops(task: Task) -> int:
    """Count the operations of convolutions and linear layers; a multiply-add is two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmconvnext.models import ConvNeXt

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        # layer by layer: the counter knows torch's operators alone
        ConvNeXt(task.arch, fused=False)(torch.empty(task.batch, 3, *task.shape))
    return counter.get_total_flops() * (FORWARD_PASSES_OF_STEP if task.train else 1)


def _check(task: Task) -> None:
    if task.batch < 1 or min(task.shape) < LEAST_SIDE:
        raise BenchmarkError(
            f"--batch {task.batch} must be at least 1, and --shape {task.shape[0]} {task.shape[1]} "
            f"at least {LEAST_SIDE} pixels a side"
        )


def _resolve(arch: str | Mapping[str, Sequence[int]]) -> tuple[list[int], list[int]]:
    try:
        depths, widths = resolve_arch(arch)
    except ValueError as error:
        raise BenchmarkError(f"--arch: {error}") from error
    return list(depths), list(widths)


def _python_path(name: str) -> tuple[str, ...]:
    folder = FOLDER_OF_PEERS / (PEERS[name].folder or "")
    return (str(folder),) if PEERS[name].folder and folder.is_dir() else ()


def _notes(train: bool) -> list[str]:
    notes = [
        "distance: relative L2 distance of the maps after output norms and of the gradients, the "
        "largest; in half precision, of all maps and of all gradients together"
    ]
    if train:
        notes.append(
            "saved: what autograd keeps for backward, each storage once; no parameters, no image"
        )
    return notes


def _saved(results: Results, name: str) -> str:
    saved, ours = (results.facts[each]["saved_bytes"] for each in (name, results.ours))
    return f"{saved / MIB:.0f} ({saved / ours:.2f})"
