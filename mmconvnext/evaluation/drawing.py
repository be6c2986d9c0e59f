"""Objects drawn on a picture: by OpenCV and Pillow, without MMDetection."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmconvnext.crops import Crop

# Pixels: the longer side to which small images are enlarged, about, and what fits that.
SIDE, FONT_SIZE, TITLE_SIZE, TITLE_HEIGHT = 640, 20, 24, 40
DARK, LIGHT = (24, 24, 24), (255, 255, 255)
MASK_OPACITY = 0.35
STRIPE = 5  # of what marks a crowd
MARGIN = 2  # pixels around a mask, for its outline


class Objects(NamedTuple):
    """What is drawn on a picture.

    Attributes:
        boxes: (n, 4), xyxy in pixels.
        names: of the classes.
        colors: RGB, 0-255.
        masks: n, or none where there are boxes alone.
        scores: of predictions.
    """

    boxes: NDArray
    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    masks: Iterable[Crop] = ()
    scores: Sequence[float] | None = None


def draw_objects(
    image: NDArray,
    objects: Objects,
    title: str = "",
    crowds: tuple[NDArray, Iterable[Crop]] | None = None,
) -> NDArray:
    """Draw objects on a copy of an image, which is enlarged if it is small, with a title above it.

    Labels, lines and the title grow with the picture, so that they can be read where it is shown
    as a whole; those of an object that is small on a large picture do not hide it.

    Args:
        image: RGB, (height, width, 3).
        objects: to draw, each with a label.
        title: may be empty, which leaves the image's proportions.
        crowds: their boxes and masks, which are striped.
    """
    factor = max(1, round(SIDE / max(image.shape[:2])))
    panel = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    scale = max(1, max(panel.shape[:2]) / SIDE)
    labels = []  # text, box and colour
    if crowds is not None:
        for mask in crowds[1]:
            place, part = _enlarged(mask, factor, panel)
            y, x = np.nonzero(part)
            dark = (x + y) // round(STRIPE * scale) % 2 == 0
            place[y, x] = np.where(dark[:, None], DARK, LIGHT)
        labels += [("crowd", box, LIGHT) for box in crowds[0] * factor]
    boxes = objects.boxes * factor
    for box, color, mask in zip(boxes, objects.colors, objects.masks, strict=False):
        _fill(*_enlarged(mask, factor, panel), color, _line(box, scale))
    for index, (box, name, color) in enumerate(
        zip(boxes, objects.names, objects.colors, strict=True)
    ):
        text = name if objects.scores is None else f"{name} {objects.scores[index]:.2f}"
        labels.append((text, box, color))
        low, high = box.reshape(2, 2).round().astype(int).tolist()
        cv2.rectangle(panel, low, high, color, _line(box, scale), cv2.LINE_AA)
    return _annotate(panel, title, labels, scale)


def _size(box: NDArray, scale: float) -> int:
    """The height of an object's label in pixels."""
    return round(float(np.clip((box[2:] - box[:2]).max() / 4, FONT_SIZE, FONT_SIZE * scale)))


def _line(box: NDArray, scale: float) -> int:
    """The width of an object's lines in pixels."""
    return max(2, _size(box, scale) // 8)


def _enlarged(mask: Crop, factor: int, panel: NDArray) -> tuple[NDArray, NDArray]:
    """The part of a panel around a mask, and the mask enlarged in it, bool."""
    # enlarged as a picture, and cut at a half: edges are smooth
    scale = {"fx": factor, "fy": factor, "interpolation": cv2.INTER_LINEAR}
    padded = np.pad(mask.bitmap, MARGIN).astype(np.float32)
    part = cv2.resize(padded, None, **scale) > 0.5
    left, top = (mask.left - MARGIN) * factor, (mask.top - MARGIN) * factor
    part = part[max(-top, 0) : panel.shape[0] - top, max(-left, 0) : panel.shape[1] - left]
    left, top = max(left, 0), max(top, 0)
    return panel[top : top + part.shape[0], left : left + part.shape[1]], part


def _fill(panel: NDArray, mask: NDArray, color: Sequence[int], line: int) -> None:
    panel[mask] = (1 - MASK_OPACITY) * panel[mask] + MASK_OPACITY * np.array(color)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(panel, contours, -1, color, line, cv2.LINE_AA)


# reading the font takes a millisecond
_font = functools.lru_cache(maxsize=64)(ImageFont.load_default)


def _annotate(
    panel: NDArray, title: str, labels: Sequence[tuple[str, NDArray, Sequence[int]]], scale: float
) -> NDArray:
    """Write labels, each with its box and colour, and put the title, if any, above."""
    height, width = panel.shape[:2]
    above = round(TITLE_HEIGHT * scale) if title else 0
    canvas = Image.new("RGB", (width, height + above), DARK)
    canvas.paste(Image.fromarray(panel), (0, above))
    draw = ImageDraw.Draw(canvas)
    font = _font(round(TITLE_SIZE * scale))
    draw.text((width // 2, above // 2), title, LIGHT, font, anchor="mm")
    for text, box, color in labels:
        size = _size(box, scale)
        length, tall = draw.textlength(text, _font(size)) + size * 0.4, size * 1.25
        left = min(max(float(box[0]), 0), max(width - length, 0))
        top = max(float(box[1]), tall) + above - tall  # above the box
        draw.rectangle((left, top, left + length, top + tall), fill=tuple(color))
        text_color = DARK if np.dot(color, (0.3, 0.6, 0.1)) > 128 else LIGHT
        place = (left + size * 0.2, top + tall / 2)
        draw.text(place, text, text_color, _font(size), anchor="lm")
    return np.asarray(canvas)
