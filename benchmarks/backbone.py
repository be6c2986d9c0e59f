"""The comparison of backbones: ConvNeXt of several libraries, in inference and in training.

Each is used as in a detector, with a feature map a stage, and has our weights.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import roofline
from benchmarks.comparison import OURS, Check, Results, at_least, close_to, run
from benchmarks.report import MIB, UNKNOWN, Column, Report
from benchmarks.worker import BenchmarkError, Candidate, python_path
from mmconvnext.models.block import LayerNorm2d
from mmconvnext.models.convnext import ConvNeXt
from mmconvnext.variants import resolve_arch
from mmconvnext.weights.layouts import convert, find_backbone

LIBRARIES = ("timm", "torchvision", "transformers", "mmpretrain")
STAGES = range(4)
SEED = 0
LAYER_SCALE = 1.0  # any value but 0 will do: weights are replaced
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


class Arch(NamedTuple):
    """Blocks and channels of each stage, and whether it is V2: with GRN, without layer scale."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    v2: bool = False


# Each of these builds a model that returns a sequence of four feature maps.
def ours(arch: Arch, fused: bool | str = "auto") -> nn.Module:
    """Build ours."""
    scale = 0.0 if arch.v2 else LAYER_SCALE
    sizes = {"depths": arch.depths, "widths": arch.widths}
    return ConvNeXt(sizes, layer_scale_init_value=scale, use_grn=arch.v2, fused=fused)


def _timm(arch: Arch) -> nn.Module:
    timm = importlib.import_module("timm")
    name = "convnextv2_tiny" if arch.v2 else "convnext_tiny"
    sizes = {"depths": arch.depths, "dims": arch.widths, "out_indices": tuple(STAGES)}
    return timm.create_model(name, features_only=True, **sizes)


def _torchvision(arch: Arch) -> nn.Module:
    convnext = importlib.import_module("torchvision.models.convnext")
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    rows = zip(arch.widths, (*arch.widths[1:], None), arch.depths, strict=True)
    settings = [convnext.CNBlockConfig(*row) for row in rows]
    model = convnext.ConvNeXt(settings, stochastic_depth_prob=0.0, layer_scale=LAYER_SCALE)
    nodes = {f"features.{2 * stage + 1}": str(stage) for stage in STAGES}
    model = extraction.create_feature_extractor(model, nodes)
    model.register_forward_hook(lambda _model, _image, maps: [*maps.values()])
    return model


def _transformers(arch: Arch) -> nn.Module:
    library = importlib.import_module("transformers")
    name = "ConvNextV2" if arch.v2 else "ConvNext"
    scale = {} if arch.v2 else {"layer_scale_init_value": LAYER_SCALE}
    sizes = {"depths": list(arch.depths), "hidden_sizes": list(arch.widths)}
    indices = [stage + 1 for stage in STAGES]
    config = getattr(library, f"{name}Config")(**sizes, **scale, out_indices=indices)
    model = getattr(library, f"{name}Backbone")(config)
    model.register_forward_hook(lambda _model, _image, output: output.feature_maps)
    return model


def _mmpretrain(arch: Arch) -> nn.Module:
    module = importlib.import_module("mmpretrain.models.backbones.convnext")
    return module.ConvNeXt(
        arch={"depths": list(arch.depths), "channels": list(arch.widths)},
        out_indices=list(STAGES),
        gap_before_final_norm=False,
        layer_scale_init_value=0.0 if arch.v2 else LAYER_SCALE,
        use_grn=arch.v2,
        drop_path_rate=0.0,
    )


class Peer(NamedTuple):
    """A way to build and use a ConvNeXt."""

    build: Callable[[Arch], nn.Module]
    has_norms: bool  # it normalises the maps that it returns, as ours does
    channels_last: bool = False  # model and image are in that memory format
    has_v2: bool = True


OURS_PLAIN = "ours, plain"
# Ours choose their memory format themselves, whatever comes in.
PEERS: Mapping[str, Peer] = {
    OURS: Peer(ours, has_norms=True),
    OURS_PLAIN: Peer(lambda arch: ours(arch, fused=False), has_norms=True),
    "timm": Peer(_timm, has_norms=False),
    "timm, channels_last": Peer(_timm, has_norms=False, channels_last=True),
    "torchvision": Peer(_torchvision, has_norms=False, has_v2=False),
    "transformers": Peer(_transformers, has_norms=True),
    "mmpretrain": Peer(_mmpretrain, has_norms=True),
}


def random_weights(arch: Arch) -> dict[str, Tensor]:
    """Draw weights of our names that an error would show with: no part of the sum is small."""
    with torch.device("meta"):
        shapes = ours(arch).state_dict()
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, tensor in shapes.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("gamma"):
            weights[name] = 0.3 + 0.1 * noise
        elif tensor.ndim > 1:
            weights[name] = noise / tensor[0].numel() ** 0.5
        else:  # biases, and the norms' weights
            weights[name] = 0.1 * noise + name.endswith("weight")
    return weights


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy our weights into a model of any layout.

    Its own tensors are renamed to ours; renaming copies nothing, so what is written into the
    renamed ones is in the model. Raises BenchmarkError where it is not, or where parameters but
    those of output norms are not the same.
    """
    converted = _named_like_ours(model.state_dict())
    unknown = sorted(set(converted) - set(weights))
    unfilled = sorted(n for n in set(weights) - set(converted) if not n.startswith("norm"))
    if unknown or unfilled:
        raise BenchmarkError(
            f"its parameters are not ours: only it has {unknown[:3]}, only ours {unfilled[:3]}"
        )
    addresses = {_address(param) for param in model.parameters()}
    for name, target in converted.items():
        target.copy_(weights[name])
        addresses.discard(_address(target))
    if addresses:
        raise BenchmarkError(f"{len(addresses)} of its parameters did not get our weights")


def _address(tensor: Tensor) -> int:
    """Where a tensor's storage is: tensors that share it have the same."""
    return tensor.untyped_storage().data_ptr()


def _named_like_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convert(dict(tensors), find_backbone(tensors))


@dataclass(frozen=True)
class Task:
    """What all candidates of a table do."""

    arch: str | Arch  # ``tiny``, …, of V2 ``v2-tiny``, …
    dtype: str = "float32"  # or what autocast computes in
    shape: tuple[int, int] = SHAPE  # height and width of the image in pixels
    batch: int = 1
    train: bool = False  # forward and backward, else forward alone
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

    def multiply_adds(self) -> int:
        """Count those of convolutions and linear layers in a forward pass."""
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            # layer by layer: the counter knows torch's operators alone
            ours(self.resolve(), fused=False)(torch.empty(self.batch, 3, *self.shape))
        return counter.get_total_flops() // 2


class Backbone:
    """The factory of the comparison of backbones, see :class:`benchmarks.worker.Candidate`.

    What is timed is what a library does of itself. Output norms differ: timm and torchvision return
    maps without any, ours, transformers and mmpretrain normalise each. Only in ``check()``, the
    maps of the former go through the norms of ours, so that like is compared with like.
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
        self._norms = nn.ModuleList(
            nn.Identity() if self._peer.has_norms else LayerNorm2d(width) for width in arch.widths
        )
        for name, param in self._norms.state_dict().items():
            param.copy_(weights[f"norm{name}"])
        layout = torch.channels_last if self._peer.channels_last else torch.contiguous_format
        for module in (self._model, self._norms):
            module.to(self._device, memory_format=layout).train(task.train)
        generator = torch.Generator().manual_seed(SEED)
        image = torch.randn(task.batch, 3, *task.shape, generator=generator).to(self._device)
        self._image = image.contiguous(memory_format=layout)
        self._gradients: list[Tensor] = []
        if task.train:  # of a loss, in the layout of the maps, as the neck's are
            for x in self._forward():
                drawn = torch.randn(x.shape, generator=generator)
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
        self._forget_gradients()
        with torch.set_grad_enabled(self._task.train), self._autocast():
            maps = self._model(self._image)
            maps = [norm(x) for norm, x in zip(self._norms, maps, strict=True)]
        named = {f"features of stage {stage}": x for stage, x in enumerate(maps)}
        if self._task.train:
            pairs = zip(self._gradients, maps, strict=True)
            torch.autograd.backward(maps, [gradient.to(x.dtype) for gradient, x in pairs])
            gradients = {name: param.grad for name, param in self._model.named_parameters()}
            gradients = _named_like_ours(gradients)
            gradients |= {f"norm{name}": x.grad for name, x in self._norms.named_parameters()}
            named |= {f"gradients of {name}": gradient for name, gradient in gradients.items()}
        return {name: x.detach().float().cpu().numpy() for name, x in named.items()}

    def facts(self) -> dict[str, float]:
        """Return the size of the work, and in training the bytes saved for the backward pass."""
        task, multiply_adds = self._task, self._task.multiply_adds()
        passes = FORWARD_PASSES_OF_STEP if task.train else 1
        facts = {
            "operations": 2 * multiply_adds * passes,
            "multiply_adds": multiply_adds,  # of a forward pass
            "parameters": sum(param.numel() for param in self._model.parameters()),
            "pixels": math.prod(task.shape),
            "images": task.batch,
        }
        return {**facts, "saved_bytes": self._saved_bytes()} if self._gradients else facts

    def _forward(self) -> Sequence[Tensor]:
        self._forget_gradients()
        with self._autocast():
            return self._model(self._image)

    def _forget_gradients(self) -> None:
        for module in (self._model, self._norms):
            module.zero_grad(set_to_none=True)

    def _autocast(self) -> AbstractContextManager:
        dtype = getattr(torch, self._task.dtype)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _saved_bytes(self) -> int:
        """What autograd keeps, each storage once; not parameters, and not the image itself."""
        not_counted = {_address(x) for x in (*self._model.parameters(), self._image)}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if _address(tensor) not in not_counted:
                saved[_address(tensor)] = tensor.untyped_storage().nbytes()
            return tensor  # stays alive until the graph is freed: no address is used twice

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            maps = self._forward()
        del maps
        return sum(saved.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    add("--arch", nargs="+", default=["tiny"], help="tiny, small, …, v2-tiny, …; default: tiny")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="others: under autocast")
    add("--shape", type=int, nargs=2, default=SHAPE, metavar=("H", "W"), help="default: 800 1280")
    add("--batch", type=at_least(1), help="images; default: 1, in training 2")
    add("--train", action="store_true", help="forward and backward")
    add("--peers", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="default: all")
    add("--plain", action="store_true", help="ours layer by layer, too")
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each size and type of the command line; may raise BenchmarkError."""
    device, shape = roofline.choose_device(args.device), tuple(args.shape)
    batch = args.batch or (2 if args.train else 1)
    if min(shape) < LEAST_SIDE:
        raise BenchmarkError(
            f"--shape {shape[0]} {shape[1]} must be at least {LEAST_SIDE} pixels a side"
        )
    tasks = [Task(a, d, shape, batch, args.train, device) for a in args.arch for d in args.dtype]
    # finds mistakes before it measures
    chosen = [candidates(task, args.peers, args.plain) for task in tasks]
    pairs = zip(tasks, chosen, strict=True)
    tables = [run(each, args, check_of(task), task.title) for task, each in pairs]
    return Report(tables, [Column("saved MiB (/ ours)", _saved), *roofline.COLUMNS], NOTES)


def candidates(task: Task, libraries: Sequence[str], plain: bool = False) -> list[Candidate]:
    """Describe ours and the peers in the table's order, and the machine's matrix product."""
    is_v2 = task.resolve().v2
    names = [OURS, *[OURS_PLAIN] * plain]
    for name, peer in PEERS.items():  # timm's is in both memory formats
        if name.partition(",")[0] in libraries and (peer.has_v2 or not is_v2):
            names.append(name)
    chosen = [Candidate(n, Backbone, {"peer": n, "task": task}, python_path(n)) for n in names]
    return [*chosen, roofline.reference(task.device, task.dtype)]


def check_of(task: Task) -> Check:
    """How near the results must be: each map, and in training each gradient.

    In half precision all gradients are taken together: a norm's parameters sum up gradients of all
    positions that nearly cancel, and alone they differ by 5 % from float32 in every library.
    """
    exact = task.dtype == "float32"
    return close_to(TOLERANCE if exact else HALF_TOLERANCE, together=not exact)


def _saved(results: Results, name: str) -> str:
    saved, of_ours = (results.facts[each].get("saved_bytes") for each in (name, results.ours))
    return f"{saved / MIB:.0f} ({saved / of_ours:.2f})" if saved else UNKNOWN
