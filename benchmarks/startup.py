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
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison import THREAD_VARIABLES, BenchmarkError, Results, Timing
from benchmarks.report import PEERS, Column, Report

# What must not be imported before it is needed.
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("torchvision", "timm", "transformers", "hotcoco")
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


@dataclass(frozen=True)
class Command:
    """What a fresh Python does.

    Attributes:
        name: as shown.
        arguments: of Python.
        python_path: folders with its library, before this package.
    """

    name: str
    arguments: tuple[str, ...]
    python_path: tuple[str, ...] = ()


class CommandError(BenchmarkError):
    """A command that does not run here; the message is the last line that it wrote."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: this comparison has no options of its own."""


def compare(args: argparse.Namespace) -> Report:
    """Measure imports and tools.

    Args:
        args: ``rounds``, ``warmup`` and ``threads``.

    Raises:
        BenchmarkError: there are no rounds, or a command of ours fails.
    """
    imports = measure("Imports", import_commands(), args.rounds, args.warmup, args.threads)
    tools = measure("Command lines", help_commands(), args.rounds, args.warmup, args.threads)
    column = Column(f"of {', '.join(OPTIONAL)}", _imported)
    notes = [more_than_torch(imports), "a fresh process each time, with Python's own start"]
    return Report((imports, tools), (column,), notes)


def import_commands() -> list[Command]:
    """List the imports, that of this package first."""
    own = ("import mmconvnext", TORCH, TORCH_AND_OURS, "from mmconvnext import ConvNeXt")
    peers = ("import mmdet.models", "import mmconvnext, mmdet.models")
    mmpretrain = "from mmpretrain.models import ConvNeXt"
    return [
        *(_import(code) for code in (*own, *peers)),
        Command(mmpretrain, ("-c", mmpretrain), (str(PEERS / "mmpretrain"),)),
    ]


def help_commands() -> list[Command]:
    """List the tools that print their help, ours first, and MMDetection's own of the same name."""
    ours = PACKAGE_ROOT / "tools" / "train.py"
    spec = importlib.util.find_spec("mmdet")
    folder = spec.submodule_search_locations[0] if spec else "mmdet"
    theirs = Path(folder, ".mim", "tools", "train.py")
    return [
        Command("tools/train.py --help", (str(ours), "--help")),
        Command("MMDetection's train.py --help", (str(theirs), "--help")),
    ]


def measure(
    title: str, commands: Sequence[Command], rounds: int, warmup: int, threads: int
) -> Results:
    """Let commands alternate; who begins changes from round to round.

    Args:
        title: of the table.
        commands: ours first; of the others, those that fail are left out.
        rounds: how many runs each has.
        warmup: runs before that, which are not counted.
        threads: that each may use.

    Raises:
        BenchmarkError: there are no rounds, or our command fails.
    """
    if rounds < 1 or warmup < 0:
        raise BenchmarkError(f"rounds={rounds} must be at least 1, and warmup={warmup} at least 0")
    results = Results(title, timings={}, threads=threads)
    present = []
    for command in commands:
        try:
            results.facts[command.name] = imported_by(command, threads)
            present.append(command)
        except CommandError as error:
            if command is commands[0]:
                raise
            results.missing[command.name] = f"it fails here: {error}"
    timings: dict[str, list[Timing]] = {command.name: [] for command in present}
    for index in range(warmup + rounds):
        start = index % len(present)
        for command in (*present[start:], *present[:start]):
            timings[command.name].append(_timing(command, threads))
        print(f"  {title}: {warmup + rounds - index - 1} rounds left", file=sys.stderr, flush=True)
    results.timings = {name: each[warmup:] for name, each in timings.items()}
    return results


def imported_by(command: Command, threads: int) -> dict[str, float]:
    """Run a command once and see which of ``OPTIONAL`` it imports: 1 for each that it does, else 0.

    Raises:
        CommandError: it fails.
    """
    process = subprocess.run(
        [sys.executable, "-c", PROBE, *command.arguments],
        env=_environment(command, threads),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = process.stderr.splitlines()
    if process.returncode:
        written = [line for line in lines if not line.startswith(LISTING)]
        raise CommandError(written[-1] if written else f"exit status {process.returncode}")
    modules = set(lines[-1].removeprefix(LISTING).split())
    return {name: float(name in modules) for name in OPTIONAL}


def more_than_torch(results: Results) -> str:
    """Say how much longer importing torch and this package takes than importing torch."""
    pairs = zip(results.timings[TORCH_AND_OURS], results.timings[TORCH], strict=True)
    more = sorted(both.seconds - torch.seconds for both, torch in pairs)
    return (
        f"{TORCH_AND_OURS}: {statistics.median(more):.3f} s more than {TORCH} (median over the "
        f"rounds; {more[0]:.3f} to {more[-1]:.3f})"
    )


def _import(code: str) -> Command:
    return Command(code, ("-c", code))


def _timing(command: Command, threads: int) -> Timing:
    environment = _environment(command, threads)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command.arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return Timing(time.perf_counter() - start, None)


def _environment(command: Command, threads: int) -> dict[str, str]:
    path = os.pathsep.join([*command.python_path, str(PACKAGE_ROOT)])
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}


def _imported(results: Results, name: str) -> str:
    return ", ".join(library for library, is_in in results.facts[name].items() if is_in) or "none"
