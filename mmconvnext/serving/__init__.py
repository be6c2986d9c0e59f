"""A detector as a service with a page: pictures in, boxes and masks out; knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """What is taken at most: bytes of a file, pixels by its header, seconds for a request with
    the time that it waits, and clients at once, of which all but one wait.
    """

    bytes: int = 32 * 2**20
    pixels: int = 16_000_000
    seconds: int = 60
    clients: int = 32


class Served(NamedTuple):
    """A detector: its name on the page, how it predicts, its classes, an RGB colour for each.

    ``predict`` gives, for the path of a picture, its objects as annotations of a COCO file, with a
    score and maybe a mask as run lengths; the ids of categories are the classes' places, from 1.
    """

    name: str
    predict: Callable[[str], list[dict[str, Any]]]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
