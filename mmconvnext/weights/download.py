"""Files from URLs, in torch's cache: whole and checked, or not there. Broken downloads resume."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, get_session
from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import is_safetensors, looks_of, read_checkpoint
from mmconvnext.errors import (
    DownloadError,
    SourceError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)
from mmconvnext.weights.checksum import check_sha256, sha256_of, split_sha256

# Their file names carry a hash or the whole recipe: no two of their files share one. Such files lie
# where torch and MMEngine put them, so that what they downloaded is found.
FLAT_HOSTS = ("dl.fbaipublicfiles.com", "download.openmmlab.com", "download.pytorch.org")
HASH_OF_URL = 16  # digits
SERVER_ERROR = 500  # and above: another attempt may help
ATTEMPTS = 3  # at a server that is busy
PAUSE = 1.0  # seconds before the next attempt
TIMEOUT = 20.0  # seconds until the server answers
# A file that is compressed on its way has another length than the server says.
HEADERS = {"Accept-Encoding": "identity"}


def download(url: str, folder: Path | None = None, sha256: str | None = None) -> Path:
    """Find the file of a URL in the cache, after downloading it if it is not there.

    Any number of processes and machines may ask at once, without a barrier between them: a lock
    beside the file lets one of them download, while the others wait and then find the file.

    A broken connection is tried again, and what came stays for the next call to resume from. A web
    page, a damaged file and one with another hash are not kept.

    Args:
        url: an http or https URL; ``#sha256=`` and the hash may be added to it.
        folder: where to put the file, under the last part of the URL; who chooses a folder keeps
            files of one name apart. None for torch's cache, where files of most hosts lie in a
            subfolder named after the URL.
        sha256: 64 hexadecimal digits that the file must have, also where it is there already.

    Raises:
        SourceError: the URL names no file, or the hash is none.
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    url, sha256 = split_sha256(url, sha256)
    return obtain(url, place_of(url, folder), sha256 or "")


def obtain(url: str, path: Path, digest: str = "") -> Path:
    """Download a URL to a path, unless there is a file.

    Args:
        url: an http or https URL.
        path: the file to be.
        digest: what its sha256 starts with, for names that carry a few digits of it.

    Raises:
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            asked = time.time()
            # the lock file stays: removing it would let two processes lock at once
            with WeakFileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _bring_or_note(url, path, digest, asked)
                    return path
    except (OSError, DownloadError) as error:
        raise DownloadError(
            f"cannot download {url}: {error}; put the file there by other means ({path}), or name "
            "the path of a file that you have instead of the URL"
        ) from error
    check_sha256(path, digest)
    return path


def place_of(url: str, folder: Path | None = None) -> Path:
    """Where the file of a URL lies, or will: in a folder, or None for torch's cache.

    Raises:
        SourceError: the URL names no file.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceError(f"{url!r} is no URL: {error}") from error
    name = parts.path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise SourceError(f"{url!r} names no file: its last part is {name!r}")
    if folder is not None:
        return Path(folder).expanduser() / name
    cache = Path(torch.hub.get_dir()).expanduser() / "checkpoints"
    if parts.hostname in FLAT_HOSTS:
        return cache / name
    # every other host may have a model.safetensors in each of its folders
    return cache / hashlib.sha256(url.encode()).hexdigest()[:HASH_OF_URL] / name


def _bring_or_note(url: str, path: Path, digest: str, asked: float) -> None:
    """Download, unless another process failed at it after this one ``asked``.

    Of many processes that want the same file from a host that is down, one waits for it.
    """
    note = path.with_name(f".{path.name}.failed")
    if note.is_file() and note.stat().st_mtime >= asked:
        raise DownloadError(f"another process has just failed: {note.read_text(encoding='utf-8')}")
    try:
        _bring(url, path, digest)
    except DownloadError as error:
        note.write_text(str(error), encoding="utf-8")
        raise
    note.unlink(missing_ok=True)


def _bring(url: str, path: Path, digest: str) -> None:
    """Download to ``path``, which appears at once, whole and checked."""
    part = _Part(path)
    print_log(f"downloading {url} to {path}", logger="current")
    part.receive(url)
    try:
        actual = sha256_of(part.path) if digest else ""
        if not actual.startswith(digest):
            raise DownloadError(
                f"what came has the sha256 {actual}, not {digest} as asked for, and was removed"
            )
        _check_whole(part.path, path.suffix)
    except DownloadError:
        part.remove()
        raise
    os.replace(part.path, path)
    part.remove()


def _check_whole(part: Path, suffix: str) -> None:
    """Refuse what is no checkpoint or not the whole of one, reading as little as possible."""
    try:
        if suffix == ".safetensors" or is_safetensors(part):
            from safetensors import safe_open

            with safe_open(part, framework="pt"):
                pass  # the header says how long the file must be
        else:
            read_checkpoint(part, mmap=True)
    except (ImportError, UnsafeCheckpointError):
        pass  # it may be whole: whoever reads it is told
    except Exception as error:
        looks = "" if isinstance(error, UnreadableCheckpointError) else f"{looks_of(part)}; "
        raise DownloadError(
            f"what came is no checkpoint, and was removed: {looks}{error}"
        ) from error


class _Part:
    """A file that is not whole yet, ``NAME.part``, and beside it which file it is a part of."""

    def __init__(self, whole: Path) -> None:
        self.name = whole.name
        self.path = whole.with_name(f"{whole.name}.part")
        self._identity = whole.with_name(f"{whole.name}.part.json")

    def receive(self, url: str) -> None:
        """Bring the file, resuming what is there of it; a busy server is asked again.

        Raises:
            DownloadError: the host cannot be reached, has no such file for us (nothing of it is
                left then), or broke off each time (what came stays).
        """
        identity = self._resume_or_restart(url)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._get(url, identity)
            except HfHubHTTPError as error:
                reason, may_pass = error, error.response.status_code >= SERVER_ERROR
                if not may_pass:
                    self.remove()
            except OSError as error:
                if error.errno is not None:  # of the disk
                    raise
                reason, may_pass = error, True  # it has not the size that was announced
                self.remove()
            except Exception as error:  # of the network, after http_get's own attempts
                kept = f"; the {self._size} bytes that came are kept" if identity else ""
                raise DownloadError(f"{error or type(error).__name__}{kept}") from error
            reason = str(reason).partition("\n")[0]
            if attempt == ATTEMPTS or not may_pass:
                raise DownloadError(reason)
            print_log(f"{url}: {reason}; trying again", logger="current")
            time.sleep(PAUSE)

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self._identity.unlink(missing_ok=True)

    @property
    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _resume_or_restart(self, url: str) -> dict[str, Any] | None:
        """Keep the bytes that are there if they are of the file that the server has now."""
        identity = _identity(url)
        try:
            same = identity == json.loads(self._identity.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            same = False
        if identity is None or not same or self._size > identity["size"]:
            self.remove()
        if identity is not None:
            self._identity.write_text(json.dumps(identity), encoding="utf-8")
        return identity

    def _get(self, url: str, identity: dict[str, Any] | None) -> None:
        validator = identity and identity["validator"]
        with self.path.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers={**HEADERS, **({"If-Range": validator} if validator else {})},
                expected_size=identity and identity["size"],
                displayed_filename=self.name,
            )
            # on disk before the file gets its name, which outlives a power cut
            file.flush()
            os.fsync(file.fileno())


def _identity(url: str) -> dict[str, Any] | None:
    """Ask a server which file it has: its size and its ETag or, without one, its date.

    Returns:
        None where the server does not say: a download cannot be resumed then.

    Raises:
        DownloadError: the server cannot be reached.
    """
    try:
        response = get_session().head(url, headers=HEADERS, follow_redirects=True, timeout=TIMEOUT)
    except Exception as error:  # the hub's library has changed its client's errors twice
        raise DownloadError(str(error) or type(error).__name__) from error
    etag = response.headers.get("ETag", "")
    # a weak ETag does not promise the same bytes
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    size = response.headers.get("Content-Length", "")
    if not response.is_success or not validator or not size.isdigit():
        return None
    return {"url": url, "validator": validator, "size": int(size)}
