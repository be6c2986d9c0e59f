"""Running the tools as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_tool():
    """Call ``run_tool("train.py", "config", ..., processes=2)``; returns the finished process."""

    def run(name: str, *arguments: object, processes: int = 1, cwd: Path = REPO, env=None):
        torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {processes}".split()
        launch = [sys.executable, *(torchrun if processes > 1 else [])]
        command = [*launch, str(REPO / "tools" / name), *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": str(REPO), "MMCONVNEXT_TRACEBACK": "", **(env or {})}
        options = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(command, cwd=cwd, env=environ, **options)

    return run
