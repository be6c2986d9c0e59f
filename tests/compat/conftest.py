"""What the tests of compat share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_python(repo: Path) -> Callable[..., str]:
    """Run Python code in a fresh process and return what it printed; a failure fails the test."""

    def run(code: str, *arguments: object) -> str:
        process = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=repo,
            env={**os.environ, "PYTHONPATH": str(repo)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run
