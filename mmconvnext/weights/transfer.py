"""Bringing one file over HTTP, and going on where a connection broke off."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mmengine.logging import print_log
from tqdm import tqdm

from mmconvnext.errors import DownloadError

ATTEMPTS = 5
CONNECT_ATTEMPTS = 2  # of these in a row without reaching the host: an alternative may be at hand
PAUSE = 1.0  # seconds before the next attempt
TIMEOUT = 20.0  # seconds without a byte
CHUNK = 1 << 20
# What another attempt may fix; any other refusal is the server's last word.
PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _BrokenError(Exception):
    """The connection broke off: another attempt may get on."""


class _UnreachedError(_BrokenError):
    """The connection was never made."""


@dataclass(frozen=True)
class Record:
    """What is known of the file that a part belongs to; it lies beside the part.

    Args:
        url: where it comes from.
        validator: its ETag or, without one, its date: whether a server still has the same file.
        size: bytes of the whole file, None where the server does not say.
    """

    url: str
    validator: str | None
    size: int | None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], size: int | None) -> Record:
        """Make the record of a response; a weak ETag does not promise the same bytes."""
        etag = headers.get("ETag", "")
        strong = etag if etag.startswith('"') else None
        return cls(url, strong or headers.get("Last-Modified"), size)


class Part:
    """A file that is not whole yet: ``NAME.part``, and ``NAME.part.json`` on where it is from.

    Args:
        path: where the whole file is to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.record_path = path.with_name(f"{path.name}.part.json")

    def read_record(self, url: str) -> Record | None:
        """The record, if what is there belongs to ``url`` and can be gone on with."""
        try:
            record = Record(**json.loads(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.url == url and record.validator and self.size else None

    @property
    def size(self) -> int:
        """The bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, record: Record) -> None:
        """Start anew: the old bytes go before the new record says whose they are."""
        self.remove()
        self.record_path.write_text(json.dumps(asdict(record)), encoding="utf-8")

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)


def receive(url: str, part: Part) -> None:
    """Bring a file, going on with what is there of it; a broken connection is tried again.

    Args:
        url: an http or https URL without a fragment.
        part: where to put it; its folder is there. After a broken connection, what came stays.

    Raises:
        DownloadError: the connection could not be made, or broke off each time; or the server has
            no such file for us, and nothing of it is left then.
        OSError: the disk cannot take it.
    """
    unreached = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _go_on(url, part)
        except _BrokenError as error:
            unreached = unreached + 1 if isinstance(error, _UnreachedError) else 0
            if attempt == ATTEMPTS or unreached == CONNECT_ATTEMPTS:
                kept = (
                    f"; the {part.size} bytes that came are kept" if part.read_record(url) else ""
                )
                raise DownloadError(f"{error} ({attempt} attempts{kept})") from error
            print_log(f"{url}: {error}; trying again", logger="current")
            time.sleep(PAUSE)
    raise AssertionError("the last attempt returns or raises")


def _go_on(url: str, part: Part) -> None:
    """Ask once for what is missing of the file."""
    record = part.read_record(url)
    if record and record.size == part.size:
        return  # whole, but the process was ended before it was put in its place
    headers = {"User-Agent": "mmconvnext"}
    if record:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": record.validator}
    with _open(url, headers, part) as response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            record = _check_range(response, record, part)
        else:
            record = Record.of(url, response.headers, response.length)
            part.begin(record)
        _pour(response, part, record)
    if record.size is not None and part.size != record.size:
        came = f"{part.size} of {record.size} bytes"
        if part.size > record.size:
            part.remove()
        raise _BrokenError(f"the connection ended after {came}")


@contextmanager
def _network() -> Iterator[None]:
    """Tell failures of the network from those of the disk, which are OSErrors, too."""
    try:
        yield
    except (OSError, HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


def _open(url: str, headers: Mapping[str, str], part: Part) -> Any:
    try:
        return urlopen(Request(url, headers=dict(headers)), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            part.remove()  # what is there is no beginning of the file: start anew
        elif error.code not in PASSING:
            part.remove()
            raise DownloadError(str(error)) from error
        raise _BrokenError(str(error)) from error
    except ValueError as error:  # a port that is no number, a host name that cannot be one
        raise DownloadError(f"no URL: {error}") from error
    except (OSError, HTTPException) as error:
        if _is_final(getattr(error, "reason", None)):
            raise DownloadError(str(error)) from error
        raise _UnreachedError(str(error) or type(error).__name__) from error


def _is_final(reason: object) -> bool:
    """Whether asking again is in vain: no such host, or one that is not who it says it is."""
    if isinstance(reason, socket.gaierror):
        return reason.errno != socket.EAI_AGAIN
    return isinstance(reason, ssl.SSLCertVerificationError)


def _check_range(response: Any, record: Record | None, part: Part) -> Record:
    """Take only the bytes that were asked for, and of the same file."""
    sent = response.headers.get("Content-Range", "")
    found = CONTENT_RANGE.fullmatch(sent.strip())
    if record and found and int(found[1]) == part.size:
        size = None if found[2] == "*" else int(found[2])
        now = Record.of(record.url, response.headers, size)
        same = now.validator in (None, record.validator)
        if same and (None in (size, record.size) or size == record.size):
            return Record(record.url, record.validator, size or record.size)
    part.remove()
    raise _BrokenError(f"the server sent another part than asked for (Content-Range: {sent!r})")


def _pour(response: Any, part: Part, record: Record) -> None:
    """Write what comes to the end of the part."""
    # disable=None: no bar where nobody watches a terminal
    bar = tqdm(
        total=record.size,
        initial=part.size,
        desc=part.path.name.removesuffix(".part"),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None,
    )
    with bar, part.path.open("ab") as file:
        while True:
            with _network():
                # what there is: read() would wait for the whole chunk, and lose it when cut off
                chunk = response.read1(CHUNK)
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
        # on disk before the file gets its name, which outlives a power cut
        file.flush()
        os.fsync(file.fileno())
