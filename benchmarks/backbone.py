"""The comparison of backbones: ConvNeXt of several libraries, in inference and in training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import roofline
from benchmarks.comparison import Check, Results, close_to, positive, run, run_options
from benchmarks.peers import (
    LIBRARIES,
    OURS,
    OURS_PLAIN,
    PEERS,
    SEED,
    Arch,
    address,
    fill,
    map_shapes,
    named_like_ours,
    ours,
    python_path,
    random_weights,
)
from benchmarks.report import MIB, UNKNOWN, Column, Report
from benchmarks.worker import BenchmarkError, Candidate
from mmconvnext.models.block import LayerNorm2d
from mmconvnext.variants import resolve_arch

SHAPE = (800, 1280)
DTYPES = ("float32", "bfloat16", "float16")
V2 = "v2-"  # before the name of a variant
# Of the relative L2 distance; in half precision, two computations with errors of their own.
TOLERANCE, HALF_TOLERANCE = 1e-4, 3e-2
LEAST_SIDE = 32  # a pixel of the last stage
# Forward, and as much again for the gradients of the features and of the weights.
FORWARD_PASSES_OF_STEP = 3
NOTES = (
    "distance: relative L2 distance of the maps after output norms and of the gradients, the "
    "largest; in half precision, of all maps and of all gradients together",
    "saved: what autograd keeps for backward, each storage once; no parameters, no image",
    roofline.NOTE,
)


@dataclass(frozen=True)
class Task:
    """What all candidates of a table do.

    Attributes:
        arch: ``tiny``, …, of V2 ``v2-tiny``, …; or an :class:`Arch`.
        dtype: ``float32``, or what autocast computes in.
        shape: height and width of the image in pixels.
        batch: number of images.
        train: forward and backward, else forward alone.
        device: in torch's words.
    """

    arch: str | Arch
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

    def resolve(self) -> Arch:
        """Look the architecture up; raises BenchmarkError where there is none."""
        if isinstance(self.arch, Arch):
            return self.arch
        try:
            return Arch(*resolve_arch(self.arch.removeprefix(V2)), self.arch.startswith(V2))
        except ValueError as error:
            raise BenchmarkError(f"--arch: {error}") from error


class Backbone:
    """The factory of the comparison of backbones, see :class:`benchmarks.worker.Candidate`.

    What is timed is what a library does of itself. Output norms differ: timm and torchvision return
    maps without any, ours, transformers and mmpretrain normalise each. Only in ``check()``, the
    maps of the former go through the norms of ours, so that like is compared with like.

    Args:
        peer: a key of ``PEERS``.
        task: what it does. In training, ``check()`` adds the gradient of the image, which training
            does not need.
    """

    def __init__(self, peer: str, task: Task):
        self._peer, self._task = PEERS[peer], task
        self._device = torch.device(task.device)
        # have float32 mean float32 on a GPU, for all
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        arch = task.resolve()
        weights = random_weights(arch)
        self._model = self._peer.build(arch)
        fill(self._model, weights)
        self._norms = nn.ModuleList() if self._peer.has_norms else _norms(arch, weights)
        layout = torch.channels_last if self._peer.channels_last else torch.contiguous_format
        for module in (self._model, self._norms):
            module.train(task.train).to(self._device, memory_format=layout)
        generator = torch.Generator().manual_seed(SEED)
        image = torch.randn(task.batch, 3, *task.shape, generator=generator).to(self._device)
        self._image = image.contiguous(memory_format=layout)
        self._gradients: list[Tensor] = []
        if task.train:  # of a loss, in the layout of the maps, as the neck's are
            for x, shape in zip(self._forward(), map_shapes(arch, task.shape), strict=True):
                drawn = torch.randn(task.batch, *shape, generator=generator)
                self._gradients.append(torch.empty_like(x).copy_(drawn))

    def run(self) -> None:
        """Compute the four maps, and in training the gradients of all parameters."""
        if self._gradients:
            torch.autograd.backward(self._forward(), self._gradients)
            return
        with torch.inference_mode(), self._autocast():
            self._model(self._image)

    def check(self) -> dict[str, np.ndarray]:
        """Return the normalised maps, and in training all gradients, by our names."""
        if not self._gradients:
            with torch.inference_mode(), self._autocast():
                return _arrays(self._named_maps())
        self._forget_gradients()
        self._image.requires_grad_()
        with self._autocast():
            maps = self._named_maps()
        pairs = zip(self._gradients, maps.values(), strict=True)
        torch.autograd.backward(list(maps.values()), [g.to(x.dtype) for g, x in pairs])
        arrays = _arrays({**maps, **self._named_gradients()})
        self._image.requires_grad_(False)
        self._forget_gradients()
        return arrays

    def facts(self) -> dict[str, float]:
        """Return the operations of a run, and in training the bytes saved for the backward pass."""
        counted = {"operations": count_operations(self._task)}
        return {**counted, "saved_bytes": self._saved_bytes()} if self._gradients else counted

    def _forward(self) -> Sequence[Tensor]:
        self._forget_gradients()
        with self._autocast():
            return self._model(self._image)

    def _forget_gradients(self) -> None:
        self._image.grad = None
        for module in (self._model, self._norms):
            module.zero_grad(set_to_none=True)

    def _autocast(self) -> AbstractContextManager:
        dtype = getattr(torch, self._task.dtype)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _named_maps(self) -> dict[str, Tensor]:
        maps = self._model(self._image)
        if not self._peer.has_norms:
            maps = [norm(x) for norm, x in zip(self._norms, maps, strict=True)]
        return {f"features of stage {stage}": x for stage, x in enumerate(maps)}

    def _named_gradients(self) -> dict[str, Tensor]:
        named = named_like_ours({name: p.grad for name, p in self._model.named_parameters()})
        named |= {f"norm{name}": param.grad for name, param in self._norms.named_parameters()}
        named["the image"] = self._image.grad
        return {f"gradients of {name}": gradient for name, gradient in named.items()}

    def _saved_bytes(self) -> int:
        """What autograd keeps, each storage once; not parameters, and not the image itself."""
        not_counted = {address(x) for x in (*self._model.parameters(), self._image)}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if address(tensor) not in not_counted:
                saved[address(tensor)] = tensor.untyped_storage().nbytes()
            return tensor  # stays alive until the graph is freed: no address is used twice

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            maps = self._forward()
        del maps
        return sum(saved.values())


def _norms(arch: Arch, weights: Mapping[str, Tensor]) -> nn.ModuleList:
    norms = nn.ModuleList(LayerNorm2d(width) for width in arch.widths)
    norms.load_state_dict(
        {n.removeprefix("norm"): w for n, w in weights.items() if n.startswith("norm")}
    )
    return norms


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    add("--arch", nargs="+", default=["tiny"], help="tiny, small, …, v2-tiny, …; default: tiny")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="others: under autocast")
    add("--shape", type=int, nargs=2, default=SHAPE, metavar=("H", "W"), help="default: 800 1280")
    add("--batch", type=positive, help="images; default: 1, in training 2")
    add("--train", action="store_true", help="forward and backward")
    add("--peers", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="default: all")
    add("--plain", action="store_true", help="ours layer by layer, too")
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each size and type of the command line; may raise BenchmarkError."""
    device = roofline.choose_device(args.device)
    batch = args.batch or (2 if args.train else 1)
    shape = tuple(args.shape)
    tasks = [Task(a, d, shape, batch, args.train, device) for a in args.arch for d in args.dtype]
    # finds mistakes before it measures
    chosen = [candidates(task, names_of(task, args.peers, args.plain)) for task in tasks]
    pairs = zip(tasks, chosen, strict=True)
    tables = [compare_one(task, each, **run_options(args)) for task, each in pairs]
    return Report(tables, [Column("saved MiB (/ ours)", _saved), *roofline.COLUMNS], NOTES)


def names_of(task: Task, libraries: Sequence[str], plain: bool = False) -> list[str]:
    """The names of candidates in the table's order; timm's is in both memory formats."""
    is_v2 = task.resolve().v2
    others = [n for n, p in PEERS.items() if n.partition(",")[0] in libraries]
    return [OURS, *[OURS_PLAIN] * plain, *(n for n in others if PEERS[n].has_v2 or not is_v2)]


def candidates(task: Task, names: Sequence[str]) -> list[Candidate]:
    """Describe candidates by keys of ``PEERS``, ours first; raises BenchmarkError."""
    if min(task.shape) < LEAST_SIDE:
        raise BenchmarkError(
            f"--shape {task.shape[0]} {task.shape[1]} must be at least {LEAST_SIDE} pixels a side"
        )
    task.resolve()
    return [Candidate(n, Backbone, {"peer": n, "task": task}, python_path(n)) for n in names]


def compare_one(task: Task, chosen: Sequence[Candidate], **options: int) -> Results:
    """Compare, then time; the machine's matrix product alternates with the candidates."""
    gemm = roofline.reference(task.device, task.dtype)
    return run([*chosen, gemm], check=check_of(task), title=task.title, **options)


def check_of(task: Task) -> Check:
    """How near the results must be: each map, and in training each gradient.

    In half precision all gradients are taken together: a norm's parameters sum up gradients of all
    positions that nearly cancel, and alone they differ by 5 % from float32 in every library.
    """
    exact = task.dtype == "float32"
    limit = TOLERANCE if exact else HALF_TOLERANCE
    return close_to(limit, lambda name: name.partition(" ")[0], together=not exact)


def count_operations(task: Task) -> int:
    """Count the operations of convolutions and linear layers; a multiply-add is two."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        # layer by layer: the counter knows torch's operators alone
        ours(task.resolve(), fused=False)(torch.empty(task.batch, 3, *task.shape))
    return counter.get_total_flops() * (FORWARD_PASSES_OF_STEP if task.train else 1)


def _saved(results: Results, name: str) -> str:
    saved, of_ours = (results.facts[each].get("saved_bytes") for each in (name, results.ours))
    return f"{saved / MIB:.0f} ({saved / of_ours:.2f})" if saved else UNKNOWN
