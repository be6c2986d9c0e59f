"""Where pictures come from: files, folders, patterns, URLs, videos, a camera."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob
from http.client import HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mmconvnext.data.decoding import as_bgr
from mmconvnext.data.formats.common import pictures_in
from mmconvnext.data.pictures import read_picture
from mmconvnext.errors import DataError
from mmconvnext.inference.prediction import Frame

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")
CAMERA = re.compile(r"camera(?::(\d+))?")
URL = re.compile(r"https?://", re.I)
SECONDS = 30  # that a server may be silent
MAX_BYTES = 2**28  # of a picture from a server
DEFAULT_RATE = 25.0  # pictures a second, of a video that does not say
WHOLE = 0.9  # of the pictures that a video says it has: some only estimate


class Input(NamedTuple):
    """A picture, a video or a camera: where it is, and what results call it."""

    name: str
    source: str

    @property
    def is_stream(self) -> bool:
        """Whether it has more than one picture."""
        path = urlsplit(self.source).path if URL.match(self.source) else self.source
        return bool(CAMERA.fullmatch(self.source)) or path.lower().endswith(VIDEOS)


def find_inputs(arguments: Sequence[str]) -> list[Input]:
    """The pictures and videos that arguments name, each once.

    Files are called by their paths below the folder that has all of them, others as they are given.

    Args:
        arguments: files, folders of pictures, patterns (``*``, ``**``), URLs, ``camera`` or
            ``camera:1``.

    Raises:
        DataError: an argument names nothing.
    """
    sources: dict[str, str] = {}  # -> the folder that a name starts below
    for argument in arguments:
        if CAMERA.fullmatch(argument) or URL.match(argument):
            sources[argument] = ""
            continue
        path = Path(os.path.abspath(argument))
        if path.is_dir():
            found = [str(each) for each in pictures_in(path)]
        else:
            found = [str(path)] if path.is_file() else sorted(glob(str(path), recursive=True))
            found = [each for each in found if os.path.isfile(each)]
        if not found:
            raise DataError(
                f"{argument} {'has no pictures' if path.is_dir() else 'is no file'}; "
                "give pictures, folders, patterns such as 'a/**/*.jpg', videos, URLs or 'camera'"
            )
        top = str(path) if path.is_dir() else os.path.commonpath([*map(os.path.dirname, found)])
        sources.update(dict.fromkeys(found, top))
    root = os.path.commonpath(filter(None, sources.values())) if any(sources.values()) else ""
    return [Input(os.path.relpath(s, root) if top else s, s) for s, top in sources.items()]


def count_frames(inputs: Iterable[Input]) -> int | None:
    """How many pictures there are, about; None where a camera has no end."""
    total = 0
    for each in inputs:
        if CAMERA.fullmatch(each.source):
            return None
        known = cv2.VideoCapture(each.source) if each.is_stream else None
        total += max(int(known.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if known else 1
    return total


def frames(inputs: Iterable[Input], faults: list[str]) -> Iterator[Frame]:
    """The pictures, one at a time; ``faults`` gets a line for each video that is not whole."""
    for each in inputs:
        name, source = each
        if not each.is_stream:
            yield Frame(name, source)
            continue
        camera = CAMERA.fullmatch(source)
        loud = cv2.utils.logging.setLogLevel(0)  # on what is not there OpenCV prints a page
        capture = cv2.VideoCapture(int(camera[1] or 0) if camera else source)
        cv2.utils.logging.setLogLevel(loud)
        try:
            rate = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
            number, announced = 0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            while (read := capture.read())[0]:
                number += 1
                yield Frame(f"{name}/{number:06}", read[1], name, rate)
            if not number:
                what = "has no picture: is it there?" if camera else "cannot be read as a video"
                faults.append(f"{source} {what}")
            elif number < WHOLE * announced:
                faults.append(f"{source} ends after {number} of {announced} pictures")
        finally:
            capture.release()


def read_image(picture: Any, load: Callable[[dict], dict]) -> NDArray:
    """Read a picture; arrays and Pillow's images become what their files would be loaded as.

    Args:
        picture: a path, a URL, an array or an image.
        load: MMCV's transform, for paths.

    Returns:
        BGR, (height, width, 3), uint8, for paths what ``load`` gives.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(picture, Image.Image):
        picture = ImageOps.exif_transpose(picture)
        deep = picture.mode.startswith("I;16")
        picture = np.asarray(picture if deep else picture.convert("RGB"))[..., :: 1 if deep else -1]
    if isinstance(picture, np.ndarray):
        return as_bgr(picture)
    if URL.match(str(picture)):
        with NamedTemporaryFile() as file:
            try:
                with urlopen(str(picture), timeout=SECONDS) as answer:  # noqa: S310 (as URL says)
                    size = file.write(answer.read(MAX_BYTES + 1))
            except (OSError, HTTPException, ValueError) as error:
                raise DataError(f"{picture} cannot be had: {error}") from error
            if size > MAX_BYTES:
                raise DataError(f"{picture} has more than {MAX_BYTES} bytes")
            file.flush()
            return _read_file(file.name, str(picture), load)
    return _read_file(str(picture), str(picture), load)


def _read_file(path: str, name: str, load: Callable[[dict], dict]) -> NDArray:
    if fault := read_picture(Path(path)).fault:
        raise DataError(f"{name} {fault}")
    return load({"img_path": path})["img"]
