"""The machine: what it is, and how fast it can be at all.

What limits a network is matrix products and memory; both are measured with the operators of torch
that the backbones are made of, in a process of their own like every candidate.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.comparison import Candidate, Process

if TYPE_CHECKING:
    import torch

PEERS = Path(sys.prefix) / "peers"  # where `make setup` puts libraries that exclude each other
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "mmpretrain",
    "mmdet",
    "mmengine",
    "mmcv",
    "mmcv-lite",
    "numpy",
    "opencv-python",
    "pycocotools",
    "hotcoco",
)
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
        facts = describe()
        gpus = ", ".join(facts["gpus"]) or "none"
        lines = [
            f"processor: {facts['processor']}, {facts['cores']} cores",
            f"memory: {facts['memory_gib']} GiB; GPU: {gpus}",
            *self.lines(),
            "versions: " + ", ".join(f"{name} {v}" for name, v in facts["packages"].items()),
            f"mmconvnext {facts['git_revision']}; Python {facts['python']}",
        ]
        return "\n".join(f"- {line}" if markdown else line for line in lines)

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
    from benchmarks.devices import choose_device

    return measure(choose_device(args.device), args.threads)


def measure(device: str, threads: int) -> Limits:
    """Measure how fast a machine multiplies matrices and copies memory.

    Args:
        device: in torch's words.
        threads: that torch may use.

    Raises:
        BenchmarkError: it cannot be measured.
    """
    candidate = Candidate("the machine", f"{__name__}:Kernels", {"device": device})
    with Process(candidate, threads) as process:
        speeds = process.facts()
    return Limits(
        gemm={dtype: speeds[dtype] for dtype in DTYPES},
        copy={name: speed for name, speed in speeds.items() if name not in DTYPES},
        device=device,
        threads=threads,
    )


class Product(NamedTuple):
    """A matrix product by one of torch's operators.

    Attributes:
        run: computes it.
        operations: that it takes; a multiply-add is two.
    """

    run: Callable[[], object]
    operations: int


class Kernels:
    """Measures torch's kernels, in a worker.

    Args:
        device: in torch's words.
    """

    def __init__(self, device: str):
        import torch

        self.device = torch.device(device)

    def facts(self) -> dict[str, float]:
        """Return operations a second for each of ``DTYPES``, and bytes a second for copies."""
        import torch

        with torch.inference_mode():
            gemm = {dtype: self._fastest(dtype)[1] for dtype in DTYPES}
            return {**gemm, **self._copies()}

    def _fastest(self, dtype: str) -> tuple[Product, float]:
        """The fastest matrix product, and its operations a second."""
        products = list(_products(dtype, self.device))
        speeds = [each.operations / self._best_time(each.run) for each in products]
        return max(zip(products, speeds, strict=True), key=lambda pair: pair[1])

    def _copies(self) -> dict[str, float]:
        import torch

        source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        times = {
            "into an existing buffer": self._best_time(lambda: target.copy_(source)),
            "into a new one": self._best_time(source.clone),
        }
        return {name: 2 * COPIED_BYTES / seconds for name, seconds in times.items()}

    def _best_time(self, kernel: Callable[[], object]) -> float:
        """The shortest time in seconds: what disturbs a kernel only makes it slower."""
        times: list[float] = []
        end = time.perf_counter() + SECONDS_EACH
        while len(times) < 3 or time.perf_counter() < end:
            self._wait()
            start = time.perf_counter()
            kernel()
            self._wait()
            times.append(time.perf_counter() - start)
        return min(times)

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Gemm(Kernels):
    """The factory of a reference for comparisons: the fastest matrix product, for about a second.

    The best moment of a machine is no measure of what it sustains, and that changes from minute to
    minute on one that is shared; so it alternates with the candidates.

    Args:
        device: in torch's words.
        dtype: of the matrices.
    """

    def __init__(self, device: str, dtype: str):
        super().__init__(device)
        self._dtype = dtype
        self._product: Product | None = None
        self._times = 0

    def facts(self) -> dict[str, float]:
        """Choose the product, and return the operations of a run.

        Not before: while processes start, all are slow.
        """
        import torch

        with torch.inference_mode():
            self._product, speed = self._fastest(self._dtype)
        self._times = max(int(SECONDS_OF_RUN * speed / self._product.operations), 1)
        return {"operations": self._product.operations * self._times}

    def run(self) -> None:
        """Multiply; to be called after ``facts()``."""
        import torch

        with torch.inference_mode():
            for _ in range(self._times):
                self._product.run()


def reference(device: str, dtype: str) -> Candidate:
    """Describe the matrix product that alternates with a comparison's candidates."""
    arguments = {"device": device, "dtype": dtype}
    return Candidate("the machine's matrix product", f"{__name__}:Gemm", arguments)


def _products(dtype: str, device: torch.device) -> Iterator[Product]:
    import torch
    from torch.nn import functional

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(getattr(torch, dtype))

    for rows, channels_in, channels_out in MATRICES:
        x, weight = draw(rows, channels_in), draw(channels_out, channels_in)
        image = x.view(1, rows // 8, 8, channels_in).permute(0, 3, 1, 2)  # channels_last
        kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        operations = 2 * rows * channels_in * channels_out
        yield Product(partial(functional.linear, x, weight), operations)
        yield Product(partial(functional.conv2d, image, kernel), operations)


def describe() -> dict[str, Any]:
    """Collect processor, memory in GiB, GPUs, and the versions of what is compared."""
    from mmconvnext.engine.provenance import git_revision, hardware

    return {
        **hardware(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := version(name))},
        "git_revision": git_revision(),
    }


def version(package: str) -> str | None:
    """The version of a package here or among the peers, or None where it is absent."""
    path = [*sys.path, *map(str, sorted(PEERS.glob("*")))]
    found = importlib.metadata.distributions(name=package, path=path)
    return next((distribution.version for distribution in found), None)
