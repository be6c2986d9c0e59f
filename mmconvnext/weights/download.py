"""Files from URLs, in torch's cache: whole and checked, or not there."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import torch
from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import is_safetensors, looks_of, read_checkpoint
from mmconvnext.errors import (
    DownloadError,
    SourceError,
    UnreadableCheckpointError,
    UnsafeCheckpointError,
)

# Their file names carry a hash or the whole recipe: no two of their files share one. Such files lie
# where torch and MMEngine put them, so that what they downloaded is found.
FLAT_HOSTS = ("dl.fbaipublicfiles.com", "download.openmmlab.com", "download.pytorch.org")
SHA256 = re.compile(r"[0-9a-f]{64}")
HASH_OF_URL = 16  # digits
CHUNK = 1 << 20


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

    Returns:
        The file.

    Raises:
        SourceError: the URL names no file, or the hash is none.
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    url, sha256 = split_sha256(url, sha256)
    return obtain(url, place_of(url, folder), sha256 or "")


def obtain(url: str, path: Path, digest: str = "") -> Path:
    """Download a URL to a place, unless there is a file.

    Args:
        url: an http or https URL.
        path: the file to be.
        digest: what its sha256 starts with, for names that carry a few digits of it.

    Returns:
        ``path``.

    Raises:
        DownloadError: the file cannot be had, or it is another one than asked for.
    """
    from huggingface_hub.utils import WeakFileLock  # here: importing it takes time

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


def split_sha256(source: str, sha256: str | None = None) -> tuple[str, str | None]:
    """Take the hash off the end of a URL, where one may stand as ``#sha256=…``.

    Args:
        source: a URL or another name with a scheme.
        sha256: the hash, if it was given beside the URL.

    Returns:
        The URL without its fragment, and the hash in lower case, if any.

    Raises:
        SourceError: the hash is no sha256, or there are two that differ.
    """
    source, _, fragment = source.partition("#")
    hashes = set() if sha256 is None else {valid_sha256(source, sha256)}
    if fragment.lower().startswith("sha"):  # also sha1 and misspellings: not silently unchecked
        hashes.add(valid_sha256(source, fragment.removeprefix("sha256=")))
    if len(hashes) > 1:
        raise SourceError(f"{source}: two different hashes: {', '.join(sorted(hashes))}")
    return source, next(iter(hashes), None)


def valid_sha256(source: str, value: str) -> str:
    """Refuse what is no sha256.

    Args:
        source: what the hash is for.
        value: the hash.

    Returns:
        The hash in lower case.

    Raises:
        SourceError: it has not 64 hexadecimal digits.
    """
    if not SHA256.fullmatch(value.lower()):
        raise SourceError(
            f"{source}: {value!r} is no sha256, which has 64 hexadecimal digits; correct it or "
            "leave it out (at the end of a URL it is written #sha256=…)"
        )
    return value.lower()


def check_sha256(path: Path, digest: str) -> None:
    """Refuse a file with another hash; it stays where it is.

    Args:
        path: a file.
        digest: what its sha256 starts with; nothing is checked if it is empty.

    Raises:
        DownloadError: it starts otherwise.
    """
    if digest and not (actual := sha256_of(path)).startswith(digest):
        raise DownloadError(
            f"{path} has the sha256 {actual}, not {digest} as asked for: it is damaged or another "
            "file. Remove it to get it anew, or correct the hash"
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file.

    Args:
        path: a file.

    Returns:
        64 hexadecimal digits in lower case.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def place_of(url: str, folder: Path | None = None) -> Path:
    """Where the file of a URL lies, or will.

    Args:
        url: an http or https URL without a fragment.
        folder: the folder, or None for the place in torch's cache.

    Returns:
        A path, which need not exist.

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
    from mmconvnext.weights.transfer import Part  # needs the hub's library, which takes time

    part = Part(path)
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
