"""What the headers of picture files say: size, orientation, depth; which files are broken."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmconvnext.data.decoding import ENDS, TAIL
from mmconvnext.data.findings import Findings
from mmconvnext.errors import DataError

ORIENTATION = 0x0112  # the EXIF tag
MAX_PIXELS = 2**28
LONGEST = 50  # times the shorter side
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


Size = tuple[int, int]  # width and height in pixels


class Picture(NamedTuple):
    """A picture file."""

    stored: Size = (0, 0)  # of the pixels in the file
    loaded: Size = (0, 0)  # as OpenCV gives them, which turns pictures as EXIF says
    orientation: int = 1  # EXIF's, 1 to 8
    mode: str = ""  # Pillow's: ``RGB``, ``L``, ``I;16``, ...
    fault: str = ""  # why it cannot be used, or nothing
    target: str = ""  # of a link that leads out of the folder


def read_picture(path: Path) -> Picture:
    """Read a picture's header, and look whether the file is whole.

    Only files with an orientation, and of rarer formats than JPEG and PNG, are decoded.
    """
    try:
        if not path.stat().st_size:
            return Picture(fault="is empty (0 bytes)")
        with Image.open(path) as image:
            size, mode, kind = image.size, image.mode, image.format
            orientation = image.getexif().get(ORIENTATION, 1)
        if size[0] * size[1] > MAX_PIXELS:
            return Picture(fault=f"has {size[0]}x{size[1]} pixels, more than {MAX_PIXELS}")
        if kind in ENDS and not _has_end(path, ENDS[kind]):
            return Picture(fault="is cut off: its end is missing")
        if kind in ENDS and orientation == 1:
            return Picture(size, size, orientation, mode)
        decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            return Picture(fault="cannot be decoded by OpenCV")
        return Picture(size, decoded.shape[1::-1], orientation, mode)
    except UNREADABLE as error:
        return Picture(fault=_explain(error))


def picture_size(path: Path) -> Size:
    """Size of a picture as it is loaded, by its header; DataError where it is none."""
    try:
        with Image.open(path) as image:
            return image.size[::-1] if image.getexif().get(ORIENTATION, 1) > 4 else image.size
    except UNREADABLE as error:
        raise DataError(f"the picture {path} {_explain(error)}") from None


def _explain(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture"
    return f"cannot be read: {error}"


def _has_end(path: Path, end: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        return end in file.read()


def read_pictures(folder: Path, names: Iterable[str]) -> dict[str, Picture]:
    """Read the headers of a folder's pictures, several at a time."""
    names, base = list(names), os.path.join(os.path.realpath(folder), "")

    def read(name: str) -> Picture:
        target = os.path.realpath(folder / name)
        outside = "" if target.startswith(base) else target
        return read_picture(folder / name)._replace(target=outside)

    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 4)) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def check_pictures(
    pictures: Mapping[str, Picture], said: Mapping[str, tuple], findings: Findings
) -> tuple[bool, dict[str, Size]]:
    """Note what is wrong with pictures, and decide whether to turn them as EXIF says.

    MMDetection does. Annotations are in the coordinates of what their tool showed: of the turned
    picture as a rule, of the stored one in some, as the sizes that their file ``said`` tell.

    Returns:
        Whether they are to be turned, and their sizes then.
    """
    rotated, turned, stored = [], [], []
    whole = {name: picture for name, picture in pictures.items() if not picture.fault}
    for name, picture in pictures.items():
        if picture.fault:
            findings.add("broken picture", f"{name} {picture.fault}")
        if picture.target:
            findings.add("link outside", f"{name} -> {picture.target}")
    for name, picture in whole.items():
        if "16" in picture.mode or picture.mode in ("I", "F"):
            findings.add("deep picture", f"{name} ({picture.mode})")
        elif picture.mode not in ("RGB", "L"):
            findings.add("picture of other colours", f"{name} ({picture.mode})")
        if max(picture.stored) > LONGEST * min(picture.stored):
            findings.add("very long picture", name)
        rotated += [name] * (picture.orientation != 1)
        if picture.stored != picture.loaded:
            turned += [name] * (said.get(name) == picture.loaded)
            stored += [name] * (said.get(name) == picture.stored)
    if turned and stored:
        findings.add("mixed EXIF orientation", f"{turned[0]} against {stored[0]}")
        rotated = []
    for name in rotated:
        findings.add("EXIF orientation" if stored else "turned picture", name)
    return not stored, {n: p.stored if stored else p.loaded for n, p in whole.items()}
