"""What a detector finds on a picture, to look at and to convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmconvnext.crops import Crop
from mmconvnext.data.decoding import decode
from mmconvnext.data.masks import outlines
from mmconvnext.errors import UserError
from mmconvnext.evaluation.rle import encode_crop

if TYPE_CHECKING:
    import supervision

SHOWN = 0.3  # the least score of what a notebook shows


class Frame(NamedTuple):
    """A picture to predict on.

    Attributes:
        name: what files of results call it.
        picture: a path, a URL, an array (height, width[, channels]), BGR, or one of Pillow.
        video: the name of the video that it is from, or nothing.
        rate: the video's pictures a second.
    """

    name: str
    picture: Any
    video: str = ""
    rate: float = 0.0


@dataclass
class Prediction:
    """The objects on a picture, by falling score.

    Attributes:
        frame: the picture.
        size: its width and height in pixels.
        boxes: (n, 4), xyxy in pixels.
        scores: (n,).
        labels: (n,), indices of ``classes``.
        crops: n masks, or None where the detector has boxes alone.
        classes: names of the labels.
        palette: a colour for each of them, RGB, 0-255.
    """

    frame: Frame
    size: tuple[int, int]
    boxes: NDArray
    scores: NDArray
    labels: NDArray
    crops: Sequence[Crop] | None
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        found = Counter(self.names).most_common()
        counts = ", ".join(f"{count} {name}" for name, count in found)
        return f"<Prediction on {self.frame.name}: {counts or 'no objects'}>"

    def __getitem__(self, chosen: Any) -> Prediction:
        """Some of the objects: by indices, a slice or an array of bool."""
        index = np.atleast_1d(np.arange(len(self))[chosen])
        crops = None if self.crops is None else [self.crops[i] for i in index]
        arrays = {key: getattr(self, key)[index] for key in ("boxes", "scores", "labels")}
        return replace(self, crops=crops, **arrays)

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    @property
    def masks(self) -> NDArray | None:
        """Masks (n, height, width), bool, or None where the detector has boxes alone."""
        if self.crops is None:
            return None
        masks = np.zeros((len(self), *self.size[::-1]), dtype=bool)
        for mask, crop in zip(masks, self.crops, strict=True):
            height, width = crop.bitmap.shape
            mask[crop.top : crop.top + height, crop.left : crop.left + width] = crop.bitmap
        return masks

    @property
    def polygons(self) -> list[list[NDArray]] | None:
        """Of each mask the outlines of its parts, x1, y1, x2, y2, ... in pixels, without holes."""
        if self.crops is None:
            return None
        return [
            [(part.reshape(-1, 2) + (left, top)).ravel() for part in outlines(bitmap)]
            for left, top, bitmap in self.crops
        ]

    @property
    def image(self) -> NDArray:
        """The picture, BGR, (height, width, 3)."""
        picture = self.frame.picture
        is_array = isinstance(picture, np.ndarray)
        return picture if is_array else decode(Path(picture).read_bytes(), str(picture))

    def above(
        self,
        score: float,
        by_class: Mapping[str, float] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Prediction:
        """The objects that have at least a score.

        Args:
            score: in 0-1.
            by_class: other scores for some classes.
            classes: the only ones that are wanted; None for all.
        """
        least = [(by_class or {}).get(name, score) for name in self.classes]
        wanted = [classes is None or name in classes for name in self.classes]
        return self[(self.scores >= np.array(least)[self.labels]) & np.array(wanted)[self.labels]]

    def draw(self) -> NDArray:
        """The picture with its objects, RGB; a small one is enlarged."""
        from mmconvnext.evaluation.drawing import Objects, draw_objects

        colors = [self.palette[label] for label in self.labels]
        found = Objects(self.boxes, self.names, colors, self.crops or (), self.scores.tolist())
        return draw_objects(np.ascontiguousarray(self.image[..., ::-1]), found)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return cv2.imencode(".png", self.above(SHOWN).draw()[..., ::-1])[1].tobytes()

    def numpy(self) -> dict[str, NDArray]:
        """Boxes, scores, labels and maybe masks by name."""
        masks = {} if self.crops is None else {"masks": self.masks}
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels, **masks}

    def coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """The objects as annotations of a COCO file, with scores and the names of their classes.

        Args:
            image_id: of the picture.
            first_id: of the first object; categories have the label's number, from 1.
        """
        entries = []
        for index, label in enumerate(self.labels.tolist()):
            x, y, right, bottom = self.boxes[index].tolist()
            entry = {"id": first_id + index, "image_id": image_id, "category_id": label + 1}
            entry |= {"category": self.classes[label], "score": float(self.scores[index])}
            entry |= {"bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
            if self.crops is not None:
                crop = self.crops[index]
                code = encode_crop(crop, *self.size)
                entry["segmentation"] = {**code, "counts": code["counts"].decode()}
                entry["area"] = int(crop.bitmap.sum())
            entries.append({**entry, "iscrowd": 0})
        return entries

    def supervision(self) -> supervision.Detections:
        """The objects as supervision's ``Detections``."""
        try:
            from supervision import Detections
        except ModuleNotFoundError as error:
            raise UserError(f"{error}; to get it: pip install supervision") from error
        return Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )
