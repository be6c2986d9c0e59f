"""How long XL takes to load, beside torch.load of the same file, and how much memory.

Run: python tests/weights/measure_loading.py [--arch xlarge] [--repeats 7]

Needs Linux, 5 GB of memory and 1.5 GB of disk. The two alternate in one process. Memory is that of
a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, before any other

MIB = 2**20


def write_file(arch: str, path: Path) -> None:
    """A classification file in timm's layout with random weights, as timm has it."""
    import timm

    model = timm.create_model(f"convnext_{arch}")
    with torch.no_grad():
        for param in model.parameters():
            param.uniform_(-1, 1)
    torch.save({"model": model.state_dict()}, path)


def memory(field: str) -> float:
    """MiB of this process: now (VmRSS), or the most so far (VmHWM); pages of mapped files count."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if field in line) / 1024


def print_memory(arch: str, path: Path) -> None:
    from mmconvnext.models import ConvNeXt
    from mmconvnext.weights.load import load_pretrained

    model = ConvNeXt(arch)
    before = memory("VmRSS")
    load_pretrained(model, str(path))
    print(memory("VmHWM") - before)


def memory_above_the_model(arch: str, path: Path) -> float:
    """In shares of the file's size, in a process of its own."""
    command = [sys.executable, __file__, "--arch", arch, "--file", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return float(process.stdout.splitlines()[-1]) * MIB / path.stat().st_size


def ratios_of_times(arch: str, path: Path, repeats: int) -> list[float]:
    """In pairs of alternating order."""
    from mmconvnext.models import ConvNeXt
    from mmconvnext.weights.load import load_pretrained

    model = ConvNeXt(arch)
    calls = {
        "ours": lambda: load_pretrained(model, str(path)),
        "torch.load": lambda: torch.load(path, map_location="cpu", weights_only=True),
    }
    ratios = []
    for repeat in range(repeats + 1):
        seconds = {}
        for name in sorted(calls, reverse=bool(repeat % 2)):
            start = time.perf_counter()
            calls[name]()
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["ours"] / seconds["torch.load"])
        print({name: f"{value:.2f} s" for name, value in seconds.items()}, flush=True)
    return ratios[1:]  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="xlarge")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file:
        print_memory(args.arch, args.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        write_file(args.arch, path)
        ratios = ratios_of_times(args.arch, path, args.repeats)
        above = memory_above_the_model(args.arch, path)
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{args.arch}: {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"time: {middle:.2f} of torch.load's ({low:.2f} to {high:.2f}, {len(ratios)} pairs)")
    print(f"memory above the model: {above:.2f} of the file's size")


if __name__ == "__main__":
    main()
