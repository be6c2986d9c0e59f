"""A file of ``mmconvnext export`` as a detector; neither torch nor MMDetection is imported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmconvnext.crops import Crop, cropped, paste
from mmconvnext.data.decoding import as_bgr, decode
from mmconvnext.data.names import palette_of
from mmconvnext.deploy.sessions import Session
from mmconvnext.errors import ConfigError, DataError
from mmconvnext.inference.prediction import Frame, Prediction


class Detector:
    """An exported detector, which finds what ``mmconvnext predict`` finds with the same file.

    Args:
        model: a file of ``mmconvnext export``: ``.xml`` (OpenVINO) or ``.onnx`` (ONNX Runtime).
        threshold: least score of an object; what the test's ``score_thr`` left out when the file
            was written is not in it.
        batch: pictures at a time; those of one size are predicted on together.
        cache: a folder where OpenVINO keeps what it compiles, and from which it starts sooner the
            next time; others must not be able to write there.
        trusted: open a ``.pt2`` file, too, which needs torch and can run code.

    Attributes:
        classes: names of the labels.
        palette: a colour for each of them, RGB, 0-255.
        meta: what is written in the file, see docs/export.md.

    Raises:
        UserError: the file cannot be opened, or an argument is out of its range.
    """

    def __init__(
        self,
        model: str | PathLike,
        *,
        threshold: float = 0.0,
        batch: int = 1,
        cache: str | PathLike | None = None,
        trusted: bool = False,
    ) -> None:
        if batch < 1 or not 0 <= threshold <= 1:
            raise ConfigError(
                f"batch={batch} must be 1 or more, threshold={threshold} within 0 and 1"
            )
        if cache is not None:
            _make_cache(Path(cache), Path(model))
        self._session, self._lock = Session(model, trusted, cache), Lock()
        self.threshold, self.batch, self.meta = threshold, batch, self._session.meta
        self.classes: Sequence[str] = tuple(self.meta["classes"])
        self.palette = palette_of(len(self.classes))

    def __call__(self, picture: Any) -> Prediction:
        """Predict on a picture: see :meth:`predict`."""
        return next(self.predict([picture]))

    def predict(
        self, pictures: Iterable[Any], faults: list[str] | None = None
    ) -> Iterator[Prediction]:
        """Predict on pictures, as they are asked for; several threads may do so.

        Args:
            pictures: paths, contents of files (bytes), arrays (BGR), or frames of these.
            faults: gets a line for each picture that cannot be used and is left out.

        Raises:
            DataError: a picture cannot be used, and ``faults`` is None.
        """
        read = self._read(pictures, faults)
        while taken := list(islice(read, self.batch)):
            alike, found = defaultdict(list), {}
            for number, (_, image) in enumerate(taken):
                alike[image.shape].append(number)
            for numbers in alike.values():
                stack = np.stack([taken[number][1][..., ::-1] for number in numbers])
                with self._lock:  # a session has one set of buffers
                    outputs = self._session(stack)
                for number, *arrays in zip(numbers, *outputs, strict=True):
                    found[number] = self._prediction(*taken[number], *arrays)
            yield from (found[number] for number in range(len(taken)))

    def _read(
        self, pictures: Iterable[Any], faults: list[str] | None
    ) -> Iterator[tuple[Frame, NDArray]]:
        for picture in pictures:
            is_path = isinstance(picture, str | PathLike)
            frame = Frame(str(picture) if is_path else "picture", picture)
            if isinstance(picture, Frame):
                frame = picture
            try:
                image = read_image(frame.picture, frame.name)
            except DataError as error:
                if faults is None:
                    raise
                faults.append(str(error))
                continue
            is_path = isinstance(frame.picture, str | PathLike)
            yield frame._replace(picture=str(frame.picture) if is_path else image), image

    def _prediction(
        self,
        frame: Frame,
        image: NDArray,
        boxes: NDArray,
        scores: NDArray,
        labels: NDArray,
        masks: NDArray | None = None,
    ) -> Prediction:
        kept = (scores >= 0) & (scores >= self.threshold)
        boxes, size = boxes[kept], image.shape[1::-1]
        if masks is not None:
            masks = Masks(masks[kept], boxes, size[::-1], self.meta["mask_threshold"])
        arrays = boxes, scores[kept], labels[kept], masks
        return Prediction(frame, size, *arrays, self.classes, self.palette)


def _make_cache(cache: Path, model: Path) -> None:
    if model.suffix != ".xml":
        raise ConfigError(f"cache={cache}: only OpenVINO's files (.xml) have one, not {model}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cache={cache}: {error.strerror}; choose another folder") from error


class Masks(Sequence[Crop]):
    """Masks that are put into the picture when one is asked for.

    Attributes:
        small: (n, h, w): probabilities in the boxes, or bool, of the picture's size.
    """

    def __init__(
        self, small: NDArray, boxes: NDArray, size: tuple[int, int], threshold: float
    ) -> None:
        self.small, self._boxes, self._size, self._threshold = small, boxes, size, threshold

    def __len__(self) -> int:
        return len(self.small)

    def __getitem__(self, index: Any) -> Crop:
        mask = self.small[index]
        if mask.dtype == bool:
            return cropped(mask)
        left, top, bitmap = paste(mask, self._boxes[index].tolist(), self._size, self._threshold)
        return cropped(bitmap, left, top)


def read_image(picture: Any, name: str) -> NDArray:
    """A picture as BGR, (height, width, 3), uint8, turned as EXIF says.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(picture, np.ndarray):
        return as_bgr(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(picture, name)
    try:
        return decode(Path(picture).read_bytes(), name)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    except TypeError as error:
        raise DataError(f"{type(picture).__name__} is no path, bytes or array") from error
