"""Start-up: what an import and a tool's ``--help`` cost, each time in a fresh process.

Other comparisons keep a process for each candidate; here starting one is what is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.comparison import (
    THREAD_VARIABLES,
    BenchmarkError,
    Results,
    Timing,
    alternate,
    check_rounds,
)
from benchmarks.report import PEERS, Column, Report

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("torchvision", "timm", "transformers", "hotcoco")  # not to be imported before needed
# Runs what Python would run with the same arguments, and says at its end what was imported.
# (-X importtime would also list what somebody tried to import in vain.)
LISTING = "imported:"
PROBE = f"""
import atexit, runpy, sys
atexit.register(lambda: print({LISTING!r}, *sys.modules, file=sys.stderr))
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
TORCH, TORCH_AND_OURS = "import torch", "import torch, mmconvnext"
IMPORTS = (
    *("import mmconvnext", TORCH, TORCH_AND_OURS, "from mmconvnext import ConvNeXt"),
    *("import mmdet.models", "import mmconvnext, mmdet.models"),
    "from mmpretrain.models import ConvNeXt",
)


class Command(NamedTuple):
    """What a fresh Python does: a name to show, its arguments, and folders before this package."""

    name: str
    arguments: tuple[str, ...]
    python_path: tuple[str, ...] = ()

    def start(self, arguments: Sequence[str], threads: int) -> tuple[int, str]:
        """Run Python with arguments; return its exit status and what it wrote to stderr."""
        path = os.pathsep.join([*self.python_path, str(ROOT)])
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**environment, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr


class CommandError(BenchmarkError):
    """A command that does not run here; the message is the last line that it wrote."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: this comparison has no options of its own."""


def compare(args: argparse.Namespace) -> Report:
    """Measure imports and tools; may raise BenchmarkError, as where a command of ours fails."""
    options = (args.rounds, args.warmup, args.threads)
    imports = measure("Imports", import_commands(), *options)
    tools = measure("Command lines", help_commands(), *options)
    column = Column(f"of {', '.join(OPTIONAL)}", _imported)
    notes = [more_than_torch(imports), "a fresh process each time, with Python's own start"]
    return Report((imports, tools), (column,), notes)


def import_commands() -> list[Command]:
    """List the imports, that of this package first."""
    peers = (str(PEERS / "mmpretrain"),)
    return [Command(each, ("-c", each), peers if "mmpretrain" in each else ()) for each in IMPORTS]


def help_commands() -> list[Command]:
    """List the tools that print their help, ours first, and MMDetection's own of the same name."""
    spec = importlib.util.find_spec("mmdet")
    folder = spec.submodule_search_locations[0] if spec else "mmdet"
    theirs = Path(folder, ".mim", "tools", "train.py")
    return [
        Command("tools/train.py --help", (str(ROOT / "tools" / "train.py"), "--help")),
        Command("MMDetection's train.py --help", (str(theirs), "--help")),
    ]


def measure(
    title: str, commands: Sequence[Command], rounds: int, warmup: int, threads: int
) -> Results:
    """Let commands alternate.

    Args:
        title: of the table.
        commands: ours first; of the others, those that fail are left out.
        rounds: how many runs each has.
        warmup: runs before that, which are not counted.
        threads: that each may use.

    Raises:
        BenchmarkError: there are no rounds, or our command fails.
    """
    check_rounds(rounds, warmup)
    results = Results(title, timings={}, threads=threads)
    present = {}
    for command in commands:
        try:
            results.facts[command.name] = imported_by(command, threads)
            present[command.name] = partial(_timing, command, threads)
        except CommandError as error:
            if command is commands[0]:
                raise
            results.missing[command.name] = f"it fails here: {error}"
    results.timings = alternate(present, rounds, warmup)
    return results


def imported_by(command: Command, threads: int) -> dict[str, float]:
    """Run a command once and see which of ``OPTIONAL`` it imports: 1 for each that it does, else 0.

    Raises:
        CommandError: it fails.
    """
    status, written = command.start(["-c", PROBE, *command.arguments], threads)
    *lines, last = written.splitlines()
    if status:
        raise CommandError(lines[-1] if lines else f"exit status {status}")
    modules = set(last.removeprefix(LISTING).split())
    return {name: float(name in modules) for name in OPTIONAL}


def more_than_torch(results: Results) -> str:
    """Say how much longer importing torch and this package takes than importing torch."""
    pairs = zip(results.timings[TORCH_AND_OURS], results.timings[TORCH], strict=True)
    more = sorted(both.seconds - torch.seconds for both, torch in pairs)
    return (
        f"{TORCH_AND_OURS}: {statistics.median(more):.3f} s more than {TORCH} (median over the "
        f"rounds; {more[0]:.3f} to {more[-1]:.3f})"
    )


def _timing(command: Command, threads: int) -> Timing:
    start = time.perf_counter()
    status, written = command.start(command.arguments, threads)
    if status:
        raise CommandError(f"{command.name}: {written}")
    return Timing(time.perf_counter() - start, None)


def _imported(results: Results, name: str) -> str:
    return ", ".join(library for library, is_in in results.facts[name].items() if is_in) or "none"
