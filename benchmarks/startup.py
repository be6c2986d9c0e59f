"""Start-up: what an import and a tool's ``--help`` cost, each time in a fresh process."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.comparison import Results, run
from benchmarks.report import Column, Report
from benchmarks.worker import Candidate, NotInstalledError, python_path

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("torchvision", "timm", "transformers", "hotcoco")  # not to be imported before needed
# Runs what Python would run with the same arguments, and says at its end what was imported.
# (-X importtime would also list what somebody tried to import in vain.)
LISTING = "imported:"
PROBE = f"""
import atexit, os, runpy, sys
atexit.register(lambda: print({LISTING!r}, *sys.modules, file=sys.stderr))
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
TORCH, TORCH_AND_OURS = "import torch", "import torch, mmconvnext"
IMPORTS = (
    *("import mmconvnext", TORCH, TORCH_AND_OURS, "from mmconvnext import ConvNeXt"),
    *("import mmdet.models", "import mmconvnext, mmdet.models"),
    "from mmpretrain.models import ConvNeXt",
)
TOOLS = {
    "tools/train.py --help": ROOT / "tools" / "train.py",
    "MMDetection's train.py --help": Path(find_spec("mmdet").origin).parent / ".mim/tools/train.py",
}


class Command:
    """The factory of a command, see :class:`benchmarks.worker.Candidate`.

    What is timed is a fresh Python that runs it, with its arguments and folders before this
    package. Where it fails here, NotInstalledError has the last line that it wrote.
    """

    def __init__(self, arguments: Sequence[str], python_path: Sequence[str] = ()):
        self._arguments = arguments
        path = os.pathsep.join([*python_path, str(ROOT)])
        self._environment = {**os.environ, "PYTHONPATH": path}
        done = self._start(["-c", PROBE, *arguments])
        *lines, last = done.stderr.splitlines()
        if done.returncode:
            why = lines[-1] if lines else f"exit status {done.returncode}"
            raise NotInstalledError(f"it fails here: {why}")
        self._modules = set(last.removeprefix(LISTING).split())

    def run(self) -> None:
        """Run it; may raise RuntimeError with what it wrote."""
        done = self._start(self._arguments)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def facts(self) -> dict[str, float]:
        """See which of ``OPTIONAL`` it imports: 1 for each that it does, else 0."""
        return {name: float(name in self._modules) for name in OPTIONAL}

    def _start(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: this comparison has no options of its own."""


def compare(args: argparse.Namespace) -> Report:
    """Measure imports and tools; may raise BenchmarkError, as where a command of ours fails."""
    imports = measure("Imports", {each: ("-c", each) for each in IMPORTS}, args)
    tools = {name: (str(path), "--help") for name, path in TOOLS.items()}
    tables = (imports, measure("Command lines", tools, args))
    column = Column(f"of {', '.join(OPTIONAL)}", _imported)
    notes = [more_than_torch(imports), "a fresh process each time, with Python's own start"]
    return Report(tables, (column,), notes)


def measure(title: str, commands: dict[str, Sequence[str]], args: argparse.Namespace) -> Results:
    """Let commands alternate, given by the arguments of Python, ours first.

    Memory is left out: it would be that of the process which starts them.
    """
    candidates = []
    for name, arguments in commands.items():
        path = python_path("mmpretrain") if "mmpretrain" in name else ()
        command = {"arguments": arguments, "python_path": path}
        candidates.append(Candidate(name, Command, command))
    results = run(candidates, args, title=title)
    for timings in results.timings.values():
        timings[:] = [timing._replace(peak_bytes=None) for timing in timings]
    return results


def more_than_torch(results: Results) -> str:
    """Say how much longer importing torch and this package takes than importing torch."""
    pairs = zip(results.timings[TORCH_AND_OURS], results.timings[TORCH], strict=True)
    more = sorted(both.seconds - torch.seconds for both, torch in pairs)
    return (
        f"{TORCH_AND_OURS}: {statistics.median(more):.3f} s more than {TORCH} (median over the "
        f"rounds; {more[0]:.3f} to {more[-1]:.3f})"
    )


def _imported(results: Results, name: str) -> str:
    return ", ".join(library for library, is_in in results.facts[name].items() if is_in) or "none"
