"""How fast the machine can be at all, and how near candidates come to that.

What limits a network is matrix products and memory; both are measured with the operators of torch
that the backbones are made of, in processes of their own like every candidate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional
from torch.utils.benchmark import Timer

from benchmarks.comparison import Results, run, run_options
from benchmarks.report import Column, Report, rate_column
from benchmarks.worker import BenchmarkError, Candidate

DTYPES = ("float32", "bfloat16")
# (positions, channels in, channels out), as in the linear layers of the stages
MATRICES = ((16000, 192, 768), (4000, 384, 1536), (512, 384, 1536), (1000, 3072, 768))
COPIED_BYTES = 2**28  # larger than caches
SECONDS_EACH = 0.3
SECONDS_OF_RUN = 0.5
GEMM = "the machine's matrix product"
NOTE = f"of GEMM: the speed divided by that of {GEMM} in the same round, its fastest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where to measure, an option of other commands, too."""
    parser.add_argument("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Report:
    """Measure the machine that the command line names."""
    device = choose_device(args.device)
    kernels = [reference(device, dtype, f"matrix product, {dtype}") for dtype in DTYPES]
    for name, is_new in (("copy into an existing buffer", False), ("copy into a new one", True)):
        kernels.append(Candidate(name, Copy, {"device": device, "is_new": is_new}))
    results = run(kernels, title=f"The machine's limits, {device}", **run_options(args))
    columns = [
        rate_column("GFLOP/s", "operations", 1e9),
        rate_column("GiB/s, read + written", "bytes", 2**30, ".1f"),
    ]
    return Report([results], columns, ["a multiply-add is two operations"], first="")


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


class Kernel:
    """The factory of an operator of torch that runs for half a second."""

    @torch.inference_mode()
    def run(self) -> None:
        """Run the kernel; to be called after ``facts()``."""
        for _ in range(self._times):
            self._kernel()

    def _choose(self, kernel: Callable[[], object], seconds: float) -> int:
        """Take a kernel, and return how often it goes into a run."""
        self._kernel, self._times = kernel, max(int(SECONDS_OF_RUN / seconds), 1)
        return self._times


class Gemm(Kernel):
    """The fastest matrix product; what a shared machine sustains changes, so it alternates, too."""

    def __init__(self, device: str, dtype: str):
        self._device, self._dtype = device, getattr(torch, dtype)

    @torch.inference_mode()
    def facts(self) -> dict[str, float]:
        """Choose the product, now that no process starts any more; return a run's operations."""
        products = [(*each, _best_time(each[0])) for each in self._products()]
        kernel, operations, seconds = max(products, key=lambda each: each[1] / each[2])
        return {"operations": operations * self._choose(kernel, seconds)}

    def _products(self) -> Iterator[tuple[Callable[[], object], int]]:
        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=self._device).to(self._dtype)

        for rows, channels_in, channels_out in MATRICES:
            x, weight = draw(rows, channels_in), draw(channels_out, channels_in)
            image = x.view(1, rows // 8, 8, channels_in).permute(0, 3, 1, 2)  # channels_last
            kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
            operations = 2 * rows * channels_in * channels_out
            yield partial(functional.linear, x, weight), operations
            yield partial(functional.conv2d, image, kernel), operations


class Copy(Kernel):
    """Copying memory, into a buffer that is there or into a new one."""

    def __init__(self, device: str, is_new: bool):
        source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
        self._copy = source.clone if is_new else partial(torch.zeros_like(source).copy_, source)

    def facts(self) -> dict[str, float]:
        """Return the bytes that a run reads and writes."""
        return {"bytes": 2 * COPIED_BYTES * self._choose(self._copy, _best_time(self._copy))}


def reference(device: str, dtype: str, name: str = GEMM) -> Candidate:
    """Describe the matrix product that alternates with a comparison's candidates."""
    return Candidate(name, Gemm, {"device": device, "dtype": dtype}, compared=False)


def _best_time(kernel: Callable[[], object]) -> float:
    """The shortest time in seconds: what disturbs a kernel only makes it slower."""
    timer = Timer("kernel()", globals={"kernel": kernel}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=SECONDS_EACH).times)


def _share_of_gemm(results: Results, name: str) -> str:
    operations = results.facts[name]["operations"] / results.facts[GEMM]["operations"]
    return f"{results.median_ratio(GEMM, base=name) * operations:.0%}"


# Of comparisons with :func:`reference`, whose candidates have the fact ``operations``, those of a
# run; a multiply-add is two.
COLUMNS = (rate_column("GFLOP/s", "operations", 1e9), Column("of GEMM", _share_of_gemm))
