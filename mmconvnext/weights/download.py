"""Files from URLs, in torch's cache: whole and checked, or not there. Broken downloads resume."""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import torch
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, http_backoff
from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import (
    CheckpointError,
    DownloadError,
    SourceError,
    UnreadableCheckpointError,
)
from mmconvnext.weights.checksum import check_sha256, sha256_of, split_sha256

# Their file names carry a hash or the whole recipe: no two of their files share one. Such files lie
# where torch and MMEngine put them, so that what they downloaded is found.
FLAT_HOSTS = ("dl.fbaipublicfiles.com", "download.openmmlab.com", "download.pytorch.org")
RETRIES = 2  # at a server that is busy
TIMEOUT = 20.0  # seconds until the server answers
# A file that is compressed on its way has another length than the server says.
HEADERS = {"Accept-Encoding": "identity"}


def download(url: str, folder: Path | None = None, sha256: str | None = None) -> Path:
    """Find the file of a URL in the cache, after downloading it if it is not there.

    Any number of processes and machines may ask at once: a lock beside the file lets one of them
    download, while the others wait. A broken connection is tried again, and what came stays for the
    next call to resume from. A web page, a damaged file and one with another hash are not kept.

    Args:
        url: an http or https URL; ``#sha256=`` and the hash may be added to it.
        folder: where to put the file, under the last part of the URL; None for torch's cache, where
            files of most hosts lie in a subfolder named after the URL.
        sha256: 64 hexadecimal digits that the file must have, also where it is there already.

    Raises:
        SourceError: the URL names no file, or the hash is none.
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    url, sha256 = split_sha256(url, sha256)
    return obtain(url, place_of(url, folder), sha256 or "")


def obtain(url: str, path: Path, digest: str = "") -> Path:
    """Download a URL to a path, unless there is a file; its sha256 must start with ``digest``.

    Raises:
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            # before the lock: for a host that is down all wait at once, not one after another
            version = _identify(url)
            # the lock file stays: removing it would let two processes lock at once
            with WeakFileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _bring(url, path, digest, *version)
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
    # every other host may have a model.safetensors in each of its folders
    return cache / ("" if parts.hostname in FLAT_HOSTS else _short_hash(url)) / name


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bring(url: str, path: Path, digest: str, validator: str, size: int | None) -> None:
    """Download to ``path``, which appears at once, whole and checked."""
    # of what came before, only a part of the very file that the server has now is resumed
    part = path.with_name(f"{path.name}.{_short_hash(f'{url} {validator} {size}')}.part")
    for found in path.parent.glob(f"{glob.escape(path.name)}.{'?' * 16}.part"):
        if found != part or size is None or found.stat().st_size > size:
            found.unlink()
    print_log(f"downloading {url} to {path}", logger="current")
    _receive(url, part, path.name, validator, size)
    try:
        _check(part, digest)
    except DownloadError:
        part.unlink()
        raise
    part.replace(path)


def _identify(url: str) -> tuple[str, int | None]:
    """Ask a server, again while it is busy, which file it has: its ETag or date, and its size.

    Where it does not say, it is an empty text and None: a download cannot be resumed then.
    """
    try:
        response = http_backoff(
            "HEAD",
            url,
            headers=HEADERS,
            follow_redirects=True,
            timeout=TIMEOUT,
            max_retries=RETRIES,
            retry_on_exceptions=(),
        )
    except Exception as error:  # the hub's library has changed its client's errors twice
        raise DownloadError(_first_line(error)) from error
    etag = response.headers.get("ETag", "")
    # a weak ETag does not promise the same bytes
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    size = response.headers.get("Content-Length", "")
    known = response.is_success and validator and size.isdigit()
    return (validator, int(size)) if known else ("", None)


def _receive(url: str, part: Path, name: str, validator: str, size: int | None) -> None:
    """Bring what is missing of a part; after broken connections ``http_get`` resumes by itself."""
    headers = {**HEADERS, "If-Range": validator} if validator else HEADERS
    try:
        with part.open("ab") as file:
            start = file.tell()
            http_get(
                url,
                file,
                resume_size=start,
                headers=headers,
                expected_size=size,
                displayed_filename=name,
            )
            # on disk before the file gets its name, which outlives a power cut
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:  # as above
        local = isinstance(error, OSError) and not isinstance(error, HfHubHTTPError)
        if local and error.errno is not None:  # of the disk
            raise
        # Without an errno: it has not the size that was announced.
        came = part.stat().st_size if validator and not local and part.is_file() else 0
        if not came:
            part.unlink(missing_ok=True)
        kept = f"; the {came} bytes that came are kept" if came else ""
        raise DownloadError(_first_line(error) + kept) from error


def _check(part: Path, digest: str) -> None:
    """Refuse another file, what is no checkpoint, and what is not the whole of one."""
    if digest and not (actual := sha256_of(part)).startswith(digest):
        raise DownloadError(
            f"what came has the sha256 {actual}, not {digest} as asked for, and was removed"
        )
    try:
        read_checkpoint(part, mmap=True)
    except UnreadableCheckpointError as error:
        raise DownloadError(f"what came is no checkpoint, and was removed: {error}") from error
    except CheckpointError:
        pass  # it may be whole: whoever reads it is told


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
