"""`make` sets the environment up once, again where pins change, and refuses a wrong Python."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

FILES = ("Makefile", "setup.py", "pyproject.toml", "requirements.txt")
PEERS = ("requirements-transformers.txt", "requirements-mmpretrain.txt")


@pytest.fixture
def make(repo, tmp_path):
    """Run make where the environment's Python only notes what it is asked for; return the notes."""
    for name in (*FILES, *PEERS):
        shutil.copy(repo / name, tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    peers = "$(dirname $0)/../peers"
    python.write_text(f'#!/bin/sh\nmkdir -p {peers}/transformers {peers}/mmpretrain\necho "$@"\n')
    python.chmod(0o755)
    (python.parent / "pip").touch()

    def run(*arguments: str) -> list[str]:
        command = ["make", "setup", "VENV=env", *arguments]
        options = {"cwd": tmp_path, "env": clean_environ(), "text": True}
        lines = subprocess.check_output(command, **options).split("\n")
        notes = dict.fromkeys(line.split("--disable-pip-version-check ")[-1] for line in lines)
        return [note for note in notes if note.startswith("-")]

    return run


def clean_environ() -> dict[str, str]:
    """The variables without those of a `make` or a CI that may have started the tests."""
    unwanted = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON", "TORCH_INDEX", "ARGS")
    return {key: value for key, value in os.environ.items() if key not in unwanted}


PINS = ["-r requirements.txt", "--no-deps --no-build-isolation --editable ."]


def of_peer(name: str) -> str:
    return f"--no-deps --target env/peers/{name} -r requirements-{name}.txt"


def test_pins_are_installed_once_and_again_when_they_change(make, tmp_path):
    assert make() == [*PINS, of_peer("transformers"), of_peer("mmpretrain")]
    assert make() == []
    later = time.time() + 10
    os.utime(tmp_path / "requirements-mmpretrain.txt", (later, later))
    assert make() == [of_peer("mmpretrain")]
    os.utime(tmp_path / "requirements.txt", (later, later))
    assert make()[: len(PINS)] == PINS


def test_torch_comes_from_the_index_that_is_named(make):
    torch = "--no-deps --index-url file:///wheels torch==2.14.1 torchvision==0.29.1"
    assert make("TORCH_INDEX=file:///wheels")[:3] == [torch, *PINS]


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_a_python_that_does_not_fit_is_refused_in_one_sentence(repo, tmp_path, python):
    command = ["make", "setup", f"VENV={tmp_path}/env", f"PYTHON={python}"]
    options = {"cwd": repo, "env": clean_environ(), "capture_output": True, "text": True}
    result = subprocess.run(command, **options, check=False)
    assert result.returncode != 0
    assert f"PYTHON={python} is not Python 3.10 to 3.13" in result.stderr
    assert not Path(tmp_path, "env").exists()
