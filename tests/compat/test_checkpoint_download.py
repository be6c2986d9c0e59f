import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmconvnext.compat import CheckpointError, UnsafeCheckpointError, checkpoint_io


def checkpoint(content: object, **kwargs) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; of those in ``cut`` only the first half, and then it hangs up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"good.pth": checkpoint({"w": torch.arange(1000)})}
        self.cut: set[str] = set()
        self.requests: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rpartition("/")[2].partition("?")[0]
        self.server.requests.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where torch's hub keeps checkpoints."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


def content_of(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def load(url: str) -> dict:
    return CheckpointLoader.load_checkpoint(url, map_location="cpu")


@pytest.mark.parametrize("query", ["", "?download=true"])
def test_a_file_is_downloaded_once_and_kept_in_torchs_cache(server, cache, query):
    for _ in range(2):
        assert load(server.url("good.pth" + query))["w"].tolist() == list(range(1000))
    assert server.requests == ["good.pth"]
    assert content_of(cache) == ["good.pth"]


def test_a_file_in_torchs_cache_needs_no_server(cache):
    cache.mkdir()
    torch.save({"a": 1}, cache / "x.pth")
    assert load("https://nowhere.invalid/x.pth") == {"a": 1}


def test_the_folder_can_be_chosen(server, cache, tmp_path):
    checkpoint_io.load_from_http(server.url("good.pth"), model_dir=str(tmp_path / "own" / "place"))
    assert content_of(tmp_path / "own" / "place") == ["good.pth"]
    assert content_of(cache) == []


@pytest.mark.parametrize("format_", ["zip", "old", "safetensors"])
def test_a_connection_that_breaks_off_leaves_nothing_behind(server, cache, format_):
    """torch's hub alone would keep the half for good."""
    name = "x.safetensors" if format_ == "safetensors" else "x.pth"
    weights = {"w": torch.zeros(100_000)}
    if format_ == "safetensors":
        whole = pytest.importorskip("safetensors.torch").save(weights)
    else:
        whole = checkpoint(weights, _use_new_zipfile_serialization=format_ == "zip")
    server.files[name] = whole
    server.cut.add(name)
    with pytest.raises(CheckpointError) as caught:
        load(server.url(name))
    assert str(caught.value).startswith(f"cannot download {server.url(name)}: cannot read ")
    assert "put the file there by other means and name its path" in str(caught.value)
    assert content_of(cache) == []
    server.cut.clear()
    assert torch.equal(load(server.url(name))["w"], weights["w"])


def test_a_web_page_in_place_of_the_file_is_not_kept(server, cache):
    server.files["x.pth"] = b"<html>Log in to this network</html>"
    with pytest.raises(CheckpointError, match="it looks like a web page"):
        load(server.url("x.pth"))
    assert content_of(cache) == []


def test_a_file_that_is_not_there(server, cache):
    with pytest.raises(
        CheckpointError, match=r"cannot download http.*/nothing\.pth: HTTP Error 404"
    ):
        load(server.url("nothing.pth"))
    assert content_of(cache) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.pth", "http://127.0.0.1:port/x.pth", "https://127.0.0.1:1/x.pth"]
)
def test_a_server_that_is_not_there(cache, monkeypatch, url):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(CheckpointError, match=f"cannot download {url}"):
        load(url)
    assert content_of(cache) == []


def test_a_downloaded_file_is_not_run_either(server, cache):
    server.files["x.pth"] = checkpoint({"model": torch.nn.Linear(1, 1)})
    with pytest.raises(UnsafeCheckpointError, match=r"x\.pth holds torch\.nn\.modules"):
        load(server.url("x.pth"))
    assert content_of(cache) == ["x.pth"]


def test_other_processes_wait_for_the_main_one(server, cache, monkeypatch):
    """Only the main one asks the server, where all see the same disk."""
    path = cache / "good.pth"

    def barrier():
        assert server.requests == []
        cache.mkdir()
        path.write_bytes(server.files["good.pth"])

    monkeypatch.setattr(checkpoint_io, "is_main_process", lambda: False)
    monkeypatch.setattr(checkpoint_io, "barrier", barrier)
    assert len(load(server.url("good.pth"))["w"]) == 1000
    assert server.requests == []


def test_another_machine_downloads_for_itself(server, cache, monkeypatch):
    monkeypatch.setattr(checkpoint_io, "is_main_process", lambda: False)
    assert len(load(server.url("good.pth"))["w"]) == 1000
    assert server.requests == ["good.pth"]
