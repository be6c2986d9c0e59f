"""What the tests of weights share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import file_download
from huggingface_hub.utils import _http

from mmconvnext.weights import download, sources
from tests.weights.server import Server, running


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nap = SimpleNamespace(sleep=lambda seconds: None)
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", nap)
    monkeypatch.setattr(file_download.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    with running() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where torch's hub keeps checkpoints."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The lines that the package logs, whichever module logs them."""
    lines = []
    for module in (download, sources):
        monkeypatch.setattr(module, "print_log", lambda line, **_: lines.append(line))
    return lines


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Save a checkpoint and return its path."""

    def write(content: object, name: str = "weights.pth") -> str:
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return write
