"""A detector as a service with a page: pictures in, boxes and masks out; knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """What is taken at most: bytes of a file, pixels by its header, seconds for a request with
    the time that it waits, clients at once, of which all but those predicted on wait, and pictures
    of one size that are predicted on together.
    """

    bytes: int = 32 * 2**20
    pixels: int = 16_000_000
    seconds: int = 60
    clients: int = 32
    batch: int = 1


class Served(NamedTuple):
    """A detector: its name on the page, how it predicts, its classes, an RGB colour for each.

    ``predict`` gives, for the path of a picture, its objects as annotations of a COCO file, with a
    score and maybe a mask as run lengths; the ids of categories are the classes' places, from 1.
    ``predict_batch``, if there is one, does so for several pictures, of one size but for those that
    EXIF turns.
    """

    name: str
    predict: Callable[[str], list[dict[str, Any]]]
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    predict_batch: Callable[[Sequence[str]], Iterable[list[dict[str, Any]]]] | None = None

    def find(self, paths: Sequence[str]) -> list[list[dict[str, Any]]]:
        """The objects on each of some pictures of one size."""
        return [*(self.predict_batch or (lambda paths: map(self.predict, paths)))(paths)]


def served_by(name: str, detector: Any) -> Served:
    """A ``Detector``, of this package or of its runtime, for the service."""
    return Served(
        name,
        lambda path: detector(path).coco(),
        detector.classes,
        detector.palette,
        lambda paths: (found.coco() for found in detector.predict(paths)),
    )
