"""Predictions into files as they come: annotated pictures and videos, a COCO file, a table."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import cv2
import mmcv
from numpy.typing import NDArray

from mmconvnext.errors import DataError
from mmconvnext.inference.prediction import Prediction

WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
COLUMNS = ("picture", "class", "score", "left", "top", "width", "height", "area")


class Outputs(ExitStack):
    """Writes predictions; what is written is whole when this is left, by an interruption, too.

    Args:
        folder: for the results.
        kinds: keys of :data:`WRITERS`.
        classes: names of the labels.

    Attributes:
        pictures: how many were written.
        objects: how many were on them.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], classes: Sequence[str]):
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.pictures = self.objects = 0
        self._writers = [self.enter_context(WRITERS[kind](folder, classes)) for kind in kinds]

    def write(self, prediction: Prediction) -> None:
        """Write what was found on a picture."""
        self.pictures += 1
        entries = prediction.coco(self.pictures, self.objects + 1)
        self.objects += len(entries)
        for writer in self._writers:
            writer.write(prediction, entries, self.pictures)


class CocoFile(ExitStack):
    """A COCO file with scores, ``predictions.json``, of which one picture's part is in memory."""

    def __init__(self, folder: Path, classes: Sequence[str]):
        super().__init__()
        path = folder / "predictions.json"
        part = path.with_name(f".{path.name}")
        self.callback(part.replace, path)  # the last to be done
        self._file = self.enter_context(part.open("w", encoding="utf-8"))
        self._images = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed with this)
        self.enter_context(self._images)
        categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
        self._file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
        self.callback(self._finish)

    def write(self, prediction: Prediction, entries: Sequence[dict], number: int) -> None:
        """Write a picture and its objects."""
        size = dict(zip(("width", "height"), prediction.size, strict=True))
        image = {"id": number, "file_name": prediction.frame.name, **size}
        for file, each in ((self._images, image), *((self._file, entry) for entry in entries)):
            file.write(f"{',' * (each['id'] > 1)}\n{json.dumps(each)}")

    def _finish(self) -> None:
        self._file.write('],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._file)
        self._file.write("]}\n")


class Table(ExitStack):
    """A row for each object, ``predictions.csv``."""

    def __init__(self, folder: Path, classes: Sequence[str]):
        super().__init__()
        path = folder / "predictions.csv"
        file = self.enter_context(path.open("w", newline="", encoding="utf-8"))
        self._rows = csv.writer(file)
        self._rows.writerow(COLUMNS)

    def write(self, prediction: Prediction, entries: Sequence[dict], number: int) -> None:
        """Write the objects on a picture."""
        for entry in entries:
            values = entry["category"], entry["score"], *entry["bbox"], entry["area"]
            self._rows.writerow([prediction.frame.name, *values])


class Drawings(ExitStack):
    """Annotated pictures, in ``pictures/``, and videos of those that are from one."""

    def __init__(self, folder: Path, classes: Sequence[str]):
        super().__init__()
        self._folder, self._taken = folder / "pictures", set()
        self._video, self._add = "", None

    def write(self, prediction: Prediction, entries: Sequence[dict], number: int) -> None:
        """Draw a picture, or go on with a video."""
        frame, drawn = prediction.frame, prediction.draw()[..., ::-1]
        if frame.video and frame.video == self._video:
            self._add(drawn)
        elif frame.video:
            self.close()
            path = self._place(frame.video, (".mp4",), ".mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._video = frame.video
            self._add = start_video(path, frame.rate, drawn.shape[1::-1], self)
            self._add(drawn)
        else:
            path = self._place(frame.name, WRITABLE, ".png")
            if not mmcv.imwrite(drawn, str(path)):
                raise DataError(f"{path} cannot be written")

    def _place(self, name: str, suffixes: Sequence[str], other: str) -> Path:
        """Where to write: numbered where taken, by upper or lower case alone, too."""
        name = re.sub(r"[^\w.-]+", "_", name) if ":" in name else name  # no file, but a URL
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in suffixes:
            stem, suffix = name, other
        names = chain([""], (f"_{number}" for number in count(2)))
        chosen = next(n for n in names if f"{stem}{n}{suffix}".casefold() not in self._taken)
        self._taken.add(f"{stem}{chosen}{suffix}".casefold())
        return self._folder / f"{stem}{chosen}{suffix}"


def start_video(
    path: Path, rate: float, size: tuple[int, int], stack: ExitStack
) -> Callable[[NDArray], Any]:
    """Start a video: H.264, which everything plays, where PyAV is installed, else MPEG-4.

    Args:
        path: of an .mp4 file.
        rate: pictures a second.
        size: width and height of a picture; an odd last row or column is left out.
        stack: finishes the video when it is closed.

    Returns:
        What adds a picture, BGR.
    """
    width, height = (length // 2 * 2 for length in size)
    if importlib.util.find_spec("av") is None:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
        stack.callback(writer.release)
        return lambda image: writer.write(image[:height, :width].copy())
    import av

    container = stack.enter_context(av.open(str(path), "w"))
    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stack.callback(lambda: container.mux(stream.encode()))

    def add(image: NDArray) -> None:
        frame = av.VideoFrame.from_ndarray(image[:height, :width].copy(), format="bgr24")
        container.mux(stream.encode(frame))

    return add


WRITERS = {"pictures": Drawings, "coco": CocoFile, "csv": Table}
