"""What a run was made with, and its result: config, git revision, versions, hardware, metrics."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config

import mmconvnext
from mmconvnext.evaluation.tables import by_data_set

PACKAGES = (
    "torch", "torchvision", "mmengine", "mmcv", "mmcv-lite", "mmdet", "numpy", "opencv-python",
    "pycocotools", "hotcoco", "timm",
)  # fmt: skip
# What decides how fast float32 and bfloat16 can be, in the names of /proc/cpuinfo.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")


def run_info(cfg: Config) -> dict:
    """Collect what another person needs to repeat a run, to be written as JSON."""
    packages = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "config": cfg.filename,
        "command": sys.argv,
        "mmconvnext": mmconvnext.__version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "packages": packages,
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
    }


def hardware() -> dict:
    """Describe the machine: processor, cores, memory in GiB, GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write_run_info(cfg: Config, folder: str) -> Path:
    """Write ``run.json`` into the folder of a run."""
    path = Path(folder) / "run.json"
    mmengine.dump(run_info(cfg), path, indent=2)
    return path


def write_result(
    metrics: Mapping[str, float],
    cfg: Config,
    checkpoint: str,
    folder: str,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run's metrics (MMEngine's, in 0-1), their origin and more into its folder.

    Returns:
        ``result.json`` in the config's ``work_dir``: a copy of the last result, found without
        knowing the time of its run.
    """
    sets = by_data_set(metrics)
    of_sets = {name: {"metrics": s.overall, "classwise": s.classwise} for name, s in sets.items()}
    found = {"data_sets": of_sets} if len(sets) > 1 else of_sets.popitem()[1] if sets else {}
    result = {
        "unit": "AP in 0-1; -1 where there is no object",
        **found,
        "checkpoint": checkpoint,
        **(more or {}),
        "run": run_info(cfg),
    }
    path = Path(cfg.work_dir) / "result.json"
    for target in (Path(folder) / "result.json", path):
        mmengine.dump(result, target, indent=2)
    return path


def git_revision() -> str:
    """The commit of this package's checkout, with ``-dirty`` after local changes."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        # Installed in a virtual environment, the package may lie inside of another repository.
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown (not a git checkout)"
        return git("describe", "--always", "--dirty", "--abbrev=12") or "unknown (no commit)"
    except OSError:
        return "unknown (git is not installed)"


def processor() -> str:
    """The processor's name, with family and model, and with its vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in reversed(text.splitlines()))
    facts = {key.strip(): value.strip() for key, _, value in pairs}  # the first core's stay
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts:  # a virtual machine's name may say only who made it
        name += f" (family {facts['cpu family']}, model {facts.get('model', 'unknown')})"
    flags = facts.get("flags", facts.get("Features", "")).split()
    vector = [flag for flag in INSTRUCTION_SETS if flag in flags]
    return f"{name} with {' '.join(vector)}" if vector else name
