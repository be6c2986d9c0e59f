"""How fast the machine can be at all, and how near candidates come to that.

What limits a network is matrix products and memory; both are measured with the operators of torch
that the backbones are made of, in a process of their own like every candidate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils.benchmark import Timer

from benchmarks.comparison import BenchmarkError, Candidate, Process, Results
from benchmarks.report import Column, describe, machine_line

DTYPES = ("float32", "bfloat16")
# (positions, channels in, channels out), as in the linear layers of the stages
MATRICES = ((16000, 192, 768), (4000, 384, 1536), (512, 384, 1536), (1000, 3072, 768))
COPIED_BYTES = 2**28  # larger than caches
SECONDS_EACH = 0.3
SECONDS_OF_RUN = 0.5
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """How fast a machine was at what bounds a network.

    Attributes:
        gemm: by type, the most floating-point operations a second (a multiply-add is two).
        copy: by target, the bytes read and written a second.
        device: where, in torch's words.
        threads: how many were used.
    """

    gemm: dict[str, float]
    copy: dict[str, float]
    device: str
    threads: int

    def text(self, markdown: bool = False) -> str:
        """Describe the machine and its limits."""
        return "\n".join(f"{'- ' * markdown}{line}" for line in (*self.lines(), machine_line()))

    def lines(self) -> list[str]:
        """Say what was measured."""
        gemm = ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in self.gemm.items())
        copy = ", ".join(f"{name} {speed / GIB:.1f} GiB/s" for name, speed in self.copy.items())
        where = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        return [
            f"the machine's matrix products ({where}), best moment: {gemm}",
            f"the machine's copies, read + written, best moment: {copy}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Collect the machine and its limits, in operations and bytes a second."""
        limits = {"gemm_flops": self.gemm, "copy_bytes": self.copy}
        return {**describe(), "device": self.device, "threads": self.threads, **limits}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Limits:
    """Measure the machine that the command line names."""
    return measure(choose_device(args.device), args.threads)


def choose_device(name: str | None = None) -> str:
    """Check a device in torch's words, or choose the GPU where there is one.

    Raises:
        BenchmarkError: torch does not know or does not have it.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # without CUDA, torch asserts
        first = str(error).partition("\n")[0]
        raise BenchmarkError(
            f"--device {name} cannot be used: {first}; --device cpu can"
        ) from error
    return name


def measure(device: str, threads: int) -> Limits:
    """Measure how fast a machine multiplies matrices and copies memory; may raise BenchmarkError.

    Args:
        device: in torch's words.
        threads: that torch may use.
    """
    candidate = Candidate("the machine", f"{__name__}:Kernels", {"device": device})
    with Process(candidate, threads) as process:
        speeds = process.facts()
    gemm = {dtype: speeds.pop(dtype) for dtype in DTYPES}
    return Limits(gemm, speeds, device, threads)


class Product(NamedTuple):
    """A matrix product by one of torch's operators, and its operations."""

    run: Callable[[], object]
    operations: int


class Kernels:
    """Measures torch's kernels on a device, in a process of its own."""

    def __init__(self, device: str):
        self.device = torch.device(device)

    @torch.inference_mode()
    def facts(self) -> dict[str, float]:
        """Return operations a second for each of ``DTYPES``, and bytes a second for copies."""
        source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        copies = {
            "into an existing buffer": partial(target.copy_, source),
            "into a new one": source.clone,
        }
        speeds = {dtype: self._fastest(dtype)[1] for dtype in DTYPES}
        for name, copy in copies.items():
            speeds[name] = 2 * COPIED_BYTES / _best_time(copy)
        return speeds

    def _fastest(self, dtype: str) -> tuple[Product, float]:
        """The fastest matrix product, and its operations a second."""
        products = list(_products(dtype, self.device))
        speeds = [each.operations / _best_time(each.run) for each in products]
        return max(zip(products, speeds, strict=True), key=lambda pair: pair[1])


class Gemm(Kernels):
    """The factory of a reference for comparisons: the fastest matrix product, for half a second.

    The best moment of a machine is no measure of what it sustains, and that changes from minute to
    minute on one that is shared; so it alternates with the candidates.
    """

    def __init__(self, device: str, dtype: str):
        super().__init__(device)
        self._dtype = dtype

    @torch.inference_mode()
    def facts(self) -> dict[str, float]:
        """Choose the product, and return the operations of a run.

        Not before: while processes start, all are slow.
        """
        self._product, speed = self._fastest(self._dtype)
        self._times = max(int(SECONDS_OF_RUN * speed / self._product.operations), 1)
        return {"operations": self._product.operations * self._times}

    @torch.inference_mode()
    def run(self) -> None:
        """Multiply; to be called after ``facts()``."""
        for _ in range(self._times):
            self._product.run()


def reference(device: str, dtype: str) -> Candidate:
    """Describe the matrix product that alternates with a comparison's candidates."""
    arguments = {"device": device, "dtype": dtype}
    return Candidate("the machine's matrix product", f"{__name__}:Gemm", arguments)


def _best_time(kernel: Callable[[], object]) -> float:
    """The shortest time in seconds: what disturbs a kernel only makes it slower."""
    threads = torch.get_num_threads()
    timer = Timer("kernel()", globals={"kernel": kernel}, num_threads=threads)
    return min(timer.blocked_autorange(min_run_time=SECONDS_EACH).times)


def _products(dtype: str, device: torch.device) -> Iterator[Product]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(getattr(torch, dtype))

    for rows, channels_in, channels_out in MATRICES:
        x, weight = draw(rows, channels_in), draw(channels_out, channels_in)
        image = x.view(1, rows // 8, 8, channels_in).permute(0, 3, 1, 2)  # channels_last
        kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        operations = 2 * rows * channels_in * channels_out
        yield Product(partial(functional.linear, x, weight), operations)
        yield Product(partial(functional.conv2d, image, kernel), operations)


def relate(results: Results) -> None:
    """Add speeds to the facts of each candidate.

    Args:
        results: of a comparison with :func:`reference`, whose candidates have the fact ``flops``:
            operations of a run, a multiply-add is two. They get ``flops_per_second`` and
            ``share_of_gemm``, the median over the rounds of the speed divided by that of the
            matrix product in the same round.
    """
    operations = results.reference_facts["operations"]
    for name, facts in results.facts.items():
        facts["flops_per_second"] = facts["flops"] / results.median_seconds(name)
        share = results.share_of_reference(name)
        facts["share_of_gemm"] = share * facts["flops"] / operations


COLUMNS = (
    Column("GFLOP/s", lambda r, name: f"{r.facts[name]['flops_per_second'] / 1e9:.0f}"),
    Column("of GEMM", lambda r, name: f"{r.facts[name]['share_of_gemm']:.0%}"),
)


def note(tables: Sequence[Results]) -> str:
    """Explain the column ``of GEMM``."""
    speeds = []
    for each in tables:
        seconds = statistics.median(timing.seconds for timing in each.reference)
        speeds.append(f"{each.reference_facts['operations'] / seconds / 1e9:.0f} GFLOP/s")
    return (
        "of GEMM: of the machine's fastest matrix product in the same round, which reached "
        + ", ".join(speeds)
    )
