"""Files from URLs, in torch's cache: whole and checked, or not there. Broken downloads resume.

The hub's library, which takes time to import, is imported only where something is downloaded.
"""

import glob
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import torch
from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.errors import (
    CheckpointError,
    DownloadError,
    SourceError,
    UnreadableCheckpointError,
)

# Their file names carry a hash or the whole recipe: no two of their files share one. Such files lie
# where torch and MMEngine put them, so that what they downloaded is found.
FLAT_HOSTS = ("dl.fbaipublicfiles.com", "download.openmmlab.com", "download.pytorch.org")
RETRIES = 2  # at a server that is busy
TIMEOUT = 20.0  # seconds until the server answers
# A file that is compressed on its way has another length than the server says.
HEADERS = {"Accept-Encoding": "identity"}
CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file: 64 hexadecimal digits in lower case."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def wanted_sha256(source: str, *given: str | None) -> str:
    """The hash that a source's file must have, in lower case, out of those given; "" for none."""
    hashes = [value for value in given if value is not None]
    for value in hashes:
        if not re.fullmatch(r"[0-9a-f]{64}", value.lower()):
            raise SourceError(
                f"{source}: {value!r} is no sha256, which has 64 hexadecimal digits; correct it or "
                "leave it out (at the end of a URL it is written #sha256=…)"
            )
    different = sorted({value.lower() for value in hashes})
    if len(different) > 1:
        raise SourceError(f"{source}: two different hashes: {', '.join(different)}")
    return "".join(different)


def check_sha256(path: Path, digits: str, advice: str = "Remove it to get it anew") -> None:
    """Raise DownloadError, with advice, unless a file's sha256 starts with some digits."""
    if digits and not (actual := sha256_of(path)).startswith(digits):
        raise DownloadError(
            f"{path} has the sha256 {actual}, not {digits} as asked for: it is damaged or another "
            f"file. {advice}, or correct the hash"
        )


def download(url: str, folder: str | Path | None = None, digits: str = "") -> Path:
    """Find the file of an http or https URL, after downloading it if it is not there.

    Any number of processes and machines may ask at once: a lock beside the file lets one of them
    download, while the others wait. A broken connection is tried again, and what came stays for the
    next call to resume from. A web page, a damaged file and one with another hash are not kept.

    ``folder`` is that of the file, see :func:`path_of`; ``digits`` are the first of its sha256.

    Raises:
        SourceError: the URL names no file.
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    from huggingface_hub.utils import WeakFileLock

    path = path_of(url, folder)
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            # before the lock: for a host that is down all wait at once, not one after another
            version = _identify(url)
            # the lock file stays: removing it would let two processes lock at once
            with WeakFileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():
                    _receive(url, path, digits, *version)
                    return path
    except Exception as error:  # the hub's library has changed its client's errors twice
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DownloadError(
            f"cannot download {url}: {reason}; put the file there by other means ({path}), or name "
            "the path of a file that you have instead of the URL"
        ) from error
    check_sha256(path, digits)
    return path


def path_of(url: str, folder: str | Path | None = None) -> Path:
    """Where the file of a URL lies, or will: in a folder, or None for torch's cache."""
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


def _identify(url: str) -> tuple[str, int | None]:
    """Ask a server, again while it is busy, which file it has: its ETag or date, and its size.

    Where it does not say, it is an empty text and None: a download cannot be resumed then.
    """
    from huggingface_hub.utils import http_backoff

    asked = {"headers": HEADERS, "follow_redirects": True, "timeout": TIMEOUT}
    response = http_backoff("HEAD", url, max_retries=RETRIES, retry_on_exceptions=(), **asked)
    etag = response.headers.get("ETag", "")
    # a weak ETag does not promise the same bytes
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    size = response.headers.get("Content-Length", "")
    known = response.is_success and validator and size.isdigit()
    return (validator, int(size)) if known else ("", None)


def _receive(url: str, path: Path, digits: str, validator: str, size: int | None) -> None:
    """Download to ``path``, which appears at once, whole and checked."""
    from huggingface_hub.file_download import http_get  # which resumes after broken connections

    # of what came before, only a part of the very file that the server has now is resumed
    part = path.with_name(f"{path.name}.{_short_hash(f'{url} {validator} {size}')}.part")
    for found in path.parent.glob(f"{glob.escape(path.name)}.{'?' * 16}.part"):
        if found != part or size is None or found.stat().st_size > size:
            found.unlink()
    print_log(f"downloading {url} to {path}", logger="current")
    headers = {**HEADERS, "If-Range": validator} if validator else HEADERS
    told = {"headers": headers, "expected_size": size, "displayed_filename": path.name}
    try:
        with part.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), **told)
            # on disk before the file gets its name, which outlives a power cut
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        # a plain OSError: it has not the size that was announced
        came = part.stat().st_size if validator and type(error) is not OSError else 0
        if not came:
            part.unlink()
            raise
        raise DownloadError(f"the {came} bytes that came are kept; {error}") from error
    try:
        check_sha256(part, digits, "It was removed: try again")
        read_checkpoint(part, mmap=True)
    except DownloadError:
        part.unlink()
        raise
    except UnreadableCheckpointError as error:
        part.unlink()
        raise DownloadError(f"what came is no checkpoint, and was removed: {error}") from error
    except CheckpointError:
        pass  # it may be whole: whoever reads it is told
    part.replace(path)
