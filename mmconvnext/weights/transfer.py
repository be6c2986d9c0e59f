"""Bringing one file over HTTP, and resuming where a connection broke off."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import get_session
from mmengine.logging import print_log

from mmconvnext.errors import DownloadError

SERVER_ERROR = 500  # and above: another attempt may help
ATTEMPTS = 3  # at a server that is busy
PAUSE = 1.0  # seconds before the next attempt
TIMEOUT = 20.0  # seconds until the server answers


class Part:
    """A file that is not whole yet, ``NAME.part``, and beside it which file it is a part of.

    Args:
        path: where the whole file is to be.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.path = path.with_name(f"{path.name}.part")
        self._identity = path.with_name(f"{path.name}.part.json")

    def receive(self, url: str) -> None:
        """Bring the file, resuming what is there of it; a broken connection is tried again.

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
        known = identity or {"validator": None, "size": None}
        with self.path.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers={"If-Range": known["validator"]} if known["validator"] else {},
                expected_size=known["size"],
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
        response = get_session().head(url, follow_redirects=True, timeout=TIMEOUT)
    except Exception as error:  # the hub's library has changed its client's errors twice
        raise DownloadError(str(error) or type(error).__name__) from error
    etag = response.headers.get("ETag", "")
    # a weak ETag does not promise the same bytes
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    size = response.headers.get("Content-Length", "")
    if not response.is_success or not validator or not size.isdigit():
        return None
    return {"url": url, "validator": validator, "size": int(size)}
