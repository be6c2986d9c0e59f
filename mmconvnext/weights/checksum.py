"""The sha256 of a file, as asked for beside a source or at the end of a URL."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mmconvnext.errors import DownloadError, SourceError

CHUNK = 1 << 20


def split_sha256(source: str, sha256: str | None = None) -> tuple[str, str | None]:
    """Split a source from its ``#sha256=…``; the hash, from there or beside it, in lower case.

    Raises:
        SourceError: the hash is no sha256, or there are two that differ.
    """
    source, _, fragment = source.partition("#")
    given = [] if sha256 is None else [sha256]
    if fragment.lower().startswith("sha"):  # also sha1 and misspellings: not silently unchecked
        given.append(fragment.removeprefix("sha256="))
    hashes = {valid_sha256(source, value) for value in given}
    if len(hashes) > 1:
        raise SourceError(f"{source}: two different hashes: {', '.join(sorted(hashes))}")
    return source, next(iter(hashes), None)


def valid_sha256(source: str, value: str) -> str:
    """The hash of a source in lower case; SourceError unless it has 64 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", value.lower()):
        raise SourceError(
            f"{source}: {value!r} is no sha256, which has 64 hexadecimal digits; correct it or "
            "leave it out (at the end of a URL it is written #sha256=…)"
        )
    return value.lower()


def check_sha256(path: Path, digest: str) -> None:
    """Raise DownloadError unless a file's sha256 starts with some digits; the file stays."""
    if digest and not (actual := sha256_of(path)).startswith(digest):
        raise DownloadError(
            f"{path} has the sha256 {actual}, not {digest} as asked for: it is damaged or another "
            "file. Remove it to get it anew, or correct the hash"
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file: 64 hexadecimal digits in lower case."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
