import errno
import io
import multiprocessing
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import huggingface_hub.utils
import pytest
import torch
from huggingface_hub.utils import _http

from mmconvnext.errors import DownloadError, SourceError
from mmconvnext.weights.download import download, path_of
from mmconvnext.weights.sources import fetch
from tests.weights.server import checkpoint, content_of, sha256

WEIGHTS = {"w": torch.arange(5000)}
CONTENT = checkpoint(WEIGHTS)
PATH = "/models/x.pth"
GET = (PATH, None)
# Nothing after the first bytes, for longer than http_get tries.
BROKEN_OFF = [500] + [0] * 5


def contents(format_: str) -> tuple[str, bytes]:
    """A whole file: its path and its content."""
    if format_ == "safetensors":
        return "/x.safetensors", pytest.importorskip("safetensors.torch").save(WEIGHTS)
    return "/x.pth", checkpoint(WEIGHTS, _use_new_zipfile_serialization=format_ == "zip")


@pytest.fixture
def url(server, cache) -> str:
    server.files[PATH] = CONTENT
    return server.url(PATH)


def refused(url: str, **kwargs) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(url, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"cannot download {url.partition('#')[0]}: ")
    assert "instead of the URL" in message
    return message


@pytest.mark.parametrize("format_", ["zip", "old", "safetensors"])
def test_a_file_is_downloaded_once(server, cache, format_):
    path, content = contents(format_)
    server.files[path] = content
    for _ in range(2):
        assert download(server.url(path)).read_bytes() == content
    assert server.requests == [(path, None)]
    assert content_of(cache) == [path[1:]]


@pytest.mark.parametrize(
    "host", ["dl.fbaipublicfiles.com", "download.openmmlab.com", "download.pytorch.org"]
)
def test_what_torch_or_mmengine_downloaded_needs_no_server(cache, host):
    cache.mkdir(parents=True)
    (cache / "x.pth").touch()
    assert download(f"https://{host}/models/x.pth?download=1") == cache / "x.pth"


def test_files_of_one_name_are_kept_apart(server, cache):
    urls = []
    for path in ("/a/model.safetensors", "/b/model.safetensors"):
        content = pytest.importorskip("safetensors.torch").save({"w": torch.tensor(ord(path[1]))})
        server.files[path] = content
        urls += [server.url(path), server.url(path + "?version=2")]
    found = [download(url) for url in urls]
    assert len(set(found)) == 4
    assert all(path.name == "model.safetensors" for path in found)
    assert found[0].read_bytes() != found[2].read_bytes()
    assert [path for path, _ in server.requests][1] == "/a/model.safetensors?version=2"


def test_the_folder_can_be_chosen(url, cache, tmp_path):
    assert download(url, tmp_path / "own" / "place") == tmp_path / "own" / "place" / "x.pth"
    assert content_of(cache) == []


@pytest.mark.parametrize("url", ["https://host/", "https://host", "https://host/a/..", "http://[x"])
def test_a_url_without_a_file_is_a_mistake(cache, url):
    with pytest.raises(SourceError, match=r"names no file|is no URL"):
        path_of(url)


@pytest.mark.parametrize(
    "headers", [{}, {"ETag": 'W/"weak"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}]
)
def test_a_download_goes_on_where_it_broke_off(url, server, cache, headers):
    server.headers |= headers
    server.cuts = [500, 700]
    assert download(url).read_bytes() == CONTENT
    assert server.requests == [GET, (PATH, "bytes=500-"), (PATH, "bytes=1200-")]
    assert content_of(cache) == ["x.pth"]


def test_a_later_call_goes_on_where_the_last_one_gave_up(url, server, cache):
    server.cuts = [*BROKEN_OFF]
    message = refused(url)
    assert "the 500 bytes that came are kept" in message
    (part,) = content_of(cache)
    assert re.fullmatch(r"x\.pth\.[0-9a-f]{16}\.part", part)
    server.requests.clear()
    assert download(url).read_bytes() == CONTENT
    assert server.requests == [(PATH, "bytes=500-")]


OTHER = checkpoint({"w": torch.ones(5000, dtype=torch.int64)})
assert len(OTHER) == len(CONTENT)


@pytest.mark.parametrize(
    ("server_says", "now"),
    [
        ({"headers": {"ETag": ""}}, CONTENT),
        ({}, OTHER),
        ({}, checkpoint({"w": torch.ones(5000)})),
        ({"checks_if_range": False}, OTHER),
    ],
    ids=["neither ETag nor date", "changed", "of another size", "changed, If-Range ignored"],
)
def test_otherwise_a_later_call_starts_over(url, server, server_says, now):
    for name, value in server_says.items():
        setattr(server, name, value)
    server.cuts = [*BROKEN_OFF]
    assert ("are kept" in refused(url)) == ("headers" not in server_says)
    server.files[PATH] = now
    server.requests.clear()
    assert download(url).read_bytes() == now
    assert server.requests == [GET]


def test_a_part_is_not_of_a_file_of_another_url_in_the_same_folder(url, server, tmp_path):
    server.headers |= {"ETag": "", "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.files["/other/x.pth"] = OTHER
    server.cuts = [len(CONTENT) // 2, *BROKEN_OFF[1:]]
    refused(url, folder=tmp_path)
    path = download(server.url("/other/x.pth"), tmp_path)
    assert path.read_bytes() == OTHER


def test_a_part_of_a_file_with_a_longer_name_is_left_alone(url, server, tmp_path):
    server.files["/x"] = CONTENT
    server.cuts = [*BROKEN_OFF]
    refused(url, folder=tmp_path)
    before = content_of(tmp_path)
    download(server.url("/x"), tmp_path)
    assert content_of(tmp_path) == ["x", *before]


@pytest.mark.parametrize(
    ("attribute", "value", "requests"),
    [
        ("ranges", False, [GET, (PATH, "bytes=500-")]),
        ("compresses", True, [GET, (PATH, "bytes=500-")]),
    ],
)
def test_odd_servers_give_the_file_as_it_is(url, server, attribute, value, requests):
    """They know no ranges, or would compress on the way."""
    setattr(server, attribute, value)
    server.cuts = [500]
    assert download(url).read_bytes() == CONTENT
    assert server.requests == requests


def test_a_server_that_sends_another_part_than_asked_for(url, server, cache):
    server.shift = 3
    server.cuts = [500]
    assert "should be of size" in refused(url)
    assert content_of(cache) == []
    assert download(url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("left", "requests"), [(CONTENT + b"more", [GET]), (CONTENT, [])], ids=["too long", "whole"]
)
def test_a_part_is_kept_only_if_it_is_one(url, server, cache, left, requests):
    server.cuts = [*BROKEN_OFF]
    refused(url)
    (part,) = cache.rglob("*.part")
    part.write_bytes(left)
    server.requests.clear()
    assert download(url).read_bytes() == CONTENT
    assert server.requests == requests
    assert content_of(cache) == ["x.pth"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_is_not_there(url, server, cache, status):
    server.cuts = [*BROKEN_OFF]
    refused(url)
    server.errors["/"] = status, ""
    server.requests.clear()
    assert f"{status}" in refused(url)
    assert len(server.requests) == 1
    assert content_of(cache) == []


def test_a_server_that_is_busy_is_asked_again(url, server, logged):
    server.busy = 2
    assert download(url).read_bytes() == CONTENT
    server.busy = 3
    assert "503" in refused(url + "?again")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.pth", "https://127.0.0.1:1/x.pth", "http://127.0.0.1:port/x.pth"]
)
@pytest.mark.usefixtures("server")
def test_a_server_that_is_not_there_is_asked_once(cache, url, monkeypatch):
    pauses = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=pauses.append))
    refused(url)
    assert pauses == []
    assert content_of(cache) == []


@pytest.mark.parametrize("name", ["/x.pth", "/x.safetensors"])
@pytest.mark.parametrize("content", [b"<html>Log in to this network</html>", b"\n<!DOCTYPE html>"])
def test_a_web_page_in_place_of_the_file_is_not_kept(server, cache, name, content):
    server.files[name] = content
    message = refused(server.url(name))
    assert "what came is no checkpoint, and was removed" in message
    assert "it looks like a web page" in message
    assert content_of(cache) == []


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("format_", ["zip", "old", "safetensors"])
def test_a_piece_that_the_server_takes_for_the_whole_is_not_kept(
    server, cache, format_, length, share
):
    path, content = contents(format_)
    server.length = length
    server.files[path] = content[: int(len(content) * share)]
    assert "what came is no checkpoint, and was removed" in refused(server.url(path))
    assert content_of(cache) == []
    server.files[path] = content
    assert download(server.url(path)).read_bytes() == content


@pytest.mark.parametrize("kind", [str.lower, str.upper])
def test_the_right_hash_is_not_sent(url, server, cache, kind):
    digest = kind(sha256(CONTENT))
    path = fetch(f"{url}#sha256={digest}")
    assert fetch(url, sha256=digest) == path
    assert server.requests == [GET]
    path.unlink()
    fetch(url, sha256=digest)
    assert server.requests == [GET, GET]


@pytest.mark.parametrize("in_url", [True, False])
def test_a_file_with_a_wrong_hash_is_not_kept(url, cache, in_url):
    wrong = "0" * 64
    message = refused(f"{url}#sha256={wrong}") if in_url else refused(url, sha256=wrong)
    assert f"sha256 {sha256(CONTENT)}, not {wrong} as asked for" in message
    assert "It was removed" in message
    assert content_of(cache) == []


def test_a_wrong_hash_does_not_remove_what_the_user_has(url, cache):
    path = fetch(url)
    with pytest.raises(DownloadError, match=f"{sha256(CONTENT)}, not {'0' * 64}.*Remove it to get"):
        fetch(url, sha256="0" * 64)
    assert path.read_bytes() == CONTENT


def test_some_digits_of_a_hash_will_do_for_names_that_carry_them(url, tmp_path):
    download(url, tmp_path / "right", sha256(CONTENT)[:8])
    with pytest.raises(DownloadError):
        download(url, tmp_path / "wrong", "00000000")
    assert content_of(tmp_path) == ["x.pth"]


@pytest.mark.parametrize(
    ("in_url", "sha256", "says"),
    [
        *(("", value, "is no sha256") for value in ("", "0" * 63, "g" * 64, f"sha256:{'0' * 64}")),
        *(
            (f"#{f}", None, "is no sha256")
            for f in ("sha256=123", f"sha512={'0' * 64}", "SHA256:0")
        ),
        (f"#sha256={'0' * 64}", "1" * 64, "two different hashes"),
    ],
)
def test_what_is_no_hash_is_a_mistake(url, server, in_url, sha256, says):
    with pytest.raises(SourceError, match=says):
        fetch(url + in_url, sha256=sha256)
    assert server.requests == []


def test_code_in_a_file_is_not_run_while_it_is_checked(server, cache):
    """It is whole, so it is kept; whoever reads it is told."""
    server.files[PATH] = checkpoint({"model": torch.nn.Linear(1, 1)})
    assert download(server.url(PATH)).is_file()


def test_a_disk_that_takes_nothing(url, server, tmp_path):
    (tmp_path / "file").touch()
    refused(url, folder=tmp_path / "file")
    assert server.requests == []


def test_a_disk_that_is_full(url, server, cache, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert "No space left on device" in refused(url)
    (part,) = content_of(cache)
    assert part.endswith(".part")
    assert download(url).read_bytes() == CONTENT
    assert server.requests == [GET]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no fork")
def test_of_two_processes_one_downloads_while_the_other_waits(url, server, cache):
    server.before_body = lambda: time.sleep(0.5)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=download, args=(url,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == [GET]
    assert content_of(cache) == ["x.pth"]


def test_a_host_that_is_down_is_waited_for_by_all_at_once(url, cache, monkeypatch):
    """Whoever asks alone waits here until the barrier breaks."""
    barrier = threading.Barrier(3)

    def ask(*args, **kwargs):
        barrier.wait(10)
        raise OSError("timed out")

    monkeypatch.setattr(huggingface_hub.utils, "http_backoff", ask)
    with ThreadPoolExecutor(3) as pool:
        said = [*pool.map(lambda _: refused(url), range(3))]
    assert all("timed out" in message for message in said)


def test_a_lock_that_a_dead_process_left_does_not_matter(url):
    path = path_of(url)
    path.parent.mkdir(parents=True)
    path.with_name(".x.pth.lock").touch()
    assert download(url).read_bytes() == CONTENT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal(url, server, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    server.cuts = [len(CONTENT) // 2]
    download(url)
    shown = sys.stderr.getvalue().split("\r")
    assert "x.pth: 100%" in shown[-1]
    assert "B/s" in shown[-1]


def test_no_progress_is_shown_where_nobody_watches(url, monkeypatch, logged):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    path = download(url)
    assert sys.stderr.getvalue() == ""
    assert logged == [f"downloading {url} to {path}"]
