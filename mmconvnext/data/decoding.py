"""From a picture's file to its pixels, by OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mmconvnext.errors import DataError

TAIL = 4096  # bytes in which a whole file has its end
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}


def decode(data: bytes | NDArray, name: str) -> NDArray:
    """Decode a picture, turned as EXIF says: what MMCV gives of its file, by OpenCV.

    Args:
        data: what a file has.
        name: of the file, for errors.

    Returns:
        BGR, (height, width, 3), uint8.

    Raises:
        DataError: it is no picture, or not the whole of one.
    """
    data = np.frombuffer(data, np.uint8)
    if not data.size:
        raise DataError(f"{name} is empty (0 bytes)")
    start = data[:8].tobytes()
    kind = next((kind for begin, kind in STARTS.items() if start.startswith(begin)), None)
    if kind and ENDS[kind] not in data[-TAIL:].tobytes():
        raise DataError(f"{name} is cut off: its end is missing")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # more pixels than it takes
        raise DataError(f"{name} cannot be decoded by OpenCV: {error.err}") from error
    if image is None:
        raise DataError(f"{name} is no picture that OpenCV can decode")
    return image


def as_bgr(image: NDArray) -> NDArray:
    """What OpenCV makes of a file with these pixels: 8 bits, three channels.

    Raises:
        DataError: an array of this type or shape is no picture.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise DataError(
            f"an array of {image.dtype}, {image.shape}, is no picture: uint8 or uint16, (height, "
            "width) or (height, width, channels), gray, BGR or BGRA"
        )
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if channels == 1 else image[..., :3]
