"""Running the tools as a user does."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_tool():
    """Call ``run_tool("train.py", "config", ..., processes=2)``; returns the finished process."""

    def run(name: str, *arguments: object, processes: int = 1, cwd: Path = REPO, env=None):
        launch: Sequence[str] = [sys.executable]
        if processes > 1:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            launch += ["--nproc-per-node", str(processes)]
        command = [*launch, str(REPO / "tools" / name), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(REPO), **(env or {})}
        environment.pop("MMCONVNEXT_TRACEBACK", None)
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run
