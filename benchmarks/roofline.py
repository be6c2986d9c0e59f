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

from benchmarks.comparison import Results, run
from benchmarks.report import Column, Report, fact_column
from benchmarks.worker import BenchmarkError, Candidate

DTYPES = ("float32", "bfloat16")
# (positions, channels in, channels out), as in the linear layers of the stages
MATRICES = ((16000, 192, 768), (4000, 384, 1536), (512, 384, 1536), (1000, 3072, 768))
COPIED_BYTES = 2**28  # larger than caches
SECONDS_EACH, SECONDS_OF_RUN = 0.3, 0.5
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
        copying = {"make": copies, "fact": "bytes", "device": device, "is_new": is_new}
        kernels.append(Candidate(name, Fastest, copying))
    columns = (SPEED, fact_column("GiB/s, read + written", "bytes", 2**30, ".1f", per_second=True))
    results = run(kernels, args, title=f"The machine's limits, {device}")
    return Report([results], columns, ["a multiply-add is two operations"], first="")


def choose_device(name: str | None = None) -> str:
    """Check that torch has a device, or choose the GPU where there is one."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # without CUDA, torch asserts
        why = str(error).partition("\n")[0]
        text = f"--device {name} cannot be used: {why}; --device cpu can"
        raise BenchmarkError(text) from error
    return name


class Fastest:
    """The factory of the fastest of some kernels of torch, which runs for half a second.

    What a shared machine sustains changes, so it alternates with the candidates. ``make`` gives
    each kernel and the work that it does, ``fact`` is what that work is.
    """

    def __init__(self, make: Callable, fact: str, **arguments: object):
        self._kernels, self._fact = [*make(**arguments)], fact

    @torch.inference_mode()
    def facts(self) -> dict[str, float]:
        """Choose, now that no process starts any more; return the work of a run."""
        timed = [(kernel, work, _best_time(kernel)) for kernel, work in self._kernels]
        self._kernel, work, seconds = max(timed, key=lambda each: each[1] / each[2])
        self._times = max(int(SECONDS_OF_RUN / seconds), 1)
        return {self._fact: work * self._times}

    @torch.inference_mode()
    def run(self) -> None:
        """Run the kernel; to be called after ``facts()``."""
        for _ in range(self._times):
            self._kernel()


def products(device: str, dtype: str) -> Iterator[tuple[Callable, int]]:
    """Make matrix products, with their operations; a multiply-add is two."""
    for rows, channels_in, channels_out in MATRICES:
        x, weight = (
            torch.randn(each, channels_in, device=device).to(getattr(torch, dtype))
            for each in (rows, channels_out)
        )
        image = x.view(1, rows // 8, 8, channels_in).permute(0, 3, 1, 2)  # channels_last
        kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        operations = 2 * rows * channels_in * channels_out
        yield partial(functional.linear, x, weight), operations
        yield partial(functional.conv2d, image, kernel), operations


def copies(device: str, is_new: bool) -> Iterator[tuple[Callable, int]]:
    """Make a copy of memory, with the bytes that it reads and writes."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    kernel = source.clone if is_new else partial(torch.zeros_like(source).copy_, source)
    yield kernel, 2 * COPIED_BYTES


def reference(device: str, dtype: str, name: str = GEMM) -> Candidate:
    """Describe the matrix product that alternates with a comparison's candidates."""
    arguments = {"make": products, "fact": "operations", "device": device, "dtype": dtype}
    return Candidate(name, Fastest, arguments, compared=False)


def _best_time(kernel: Callable[[], object]) -> float:
    """The shortest time in seconds: what disturbs a kernel only makes it slower."""
    timer = Timer("kernel()", globals={"kernel": kernel}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=SECONDS_EACH).times)


def _share_of_gemm(results: Results, name: str) -> str:
    operations = results.facts[name]["operations"] / results.facts[GEMM]["operations"]
    return f"{results.median_ratio(GEMM, base=name) * operations:.0%}"


SPEED = fact_column("GFLOP/s", "operations", 1e9, ".0f", per_second=True)
# Of comparisons with :func:`reference`, whose candidates have the fact ``operations`` of a run.
COLUMNS = (SPEED, Column("of GEMM", _share_of_gemm))
