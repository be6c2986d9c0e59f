"""How long XL takes to load, beside torch.load of the same file, and how much memory.

Run: python tests/weights/measure_loading.py [--arch xlarge] [--repeats 7]

Needs Linux, 5 GB of memory and 1.5 GB of disk. The two alternate in one process, after what was
loaded has been compared with the original. Memory is that of a process of its own.
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


def load(arch: str, path: Path) -> torch.nn.Module:
    from mmconvnext.models import ConvNeXt
    from mmconvnext.weights.load import load_pretrained

    model = ConvNeXt(arch)
    before = memory("VmRSS")
    load_pretrained(model, str(path))
    print(f"memory {memory('VmHWM') - before:.0f}")
    return model


def assert_equal(model: torch.nn.Module, path: Path) -> None:
    state = torch.load(path, weights_only=True)["model"]
    block = model.stages[2][26]
    assert torch.equal(block.pwconv2.weight, state["stages.2.blocks.26.mlp.fc2.weight"])
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("norm")}
    theirs = [v for k, v in state.items() if not k.startswith("head")]
    assert sum(v.double().sum() for v in own.values()) == sum(v.double().sum() for v in theirs)


def measure(arch: str, path: Path, repeats: int) -> list[float]:
    """Ratios of the two times, in pairs of alternating order."""
    from mmconvnext.weights.load import load_pretrained

    model = load(arch, path)
    assert_equal(model, path)

    def ours() -> None:
        load_pretrained(model, str(path))

    def theirs() -> None:
        torch.load(path, map_location="cpu", weights_only=True)

    ratios = []
    for repeat in range(repeats + 1):
        seconds = {}
        for function in (ours, theirs) if repeat % 2 else (theirs, ours):
            start = time.perf_counter()
            function()
            seconds[function] = time.perf_counter() - start
        if repeat:  # the first one warms up
            ratios.append(seconds[ours] / seconds[theirs])
            print(f"ours {seconds[ours]:.2f} s, torch.load {seconds[theirs]:.2f} s", flush=True)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="xlarge")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file:
        load(args.arch, args.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        write_file(args.arch, path)
        size = path.stat().st_size / MIB
        ratios = measure(args.arch, path, args.repeats)
        command = [sys.executable, __file__, "--arch", args.arch, "--file", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    above = float(output.rpartition("memory ")[2])
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{args.arch}: {size:.0f} MiB, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"time: {middle:.2f} of torch.load's ({low:.2f} to {high:.2f}, {len(ratios)} pairs)")
    print(f"memory above the model: {above:.0f} MiB, {above / size:.2f} of the file's size")


if __name__ == "__main__":
    main()
