"""Whether an exported detector finds what the checkpoint does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmconvnext.inference.detector import Detector
from mmconvnext.inference.prediction import Prediction

BOX, SCORE, MASK = 1e-2, 1e-4, 1e-3  # pixels; of a score; share of the masks' pixels


@dataclass
class Parity:
    """How far two detectors differ on some pictures.

    Attributes:
        pictures: that were compared.
        sizes: of them.
        objects: that both found.
        box: largest difference of a coordinate, in pixels.
        score: largest difference of scores.
        mask_pixels: of all masks.
        different: of them.
        others: objects, with their picture, that only one has found and that no tie explains.
    """

    pictures: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    objects: int = 0
    box: float = 0.0
    score: float = 0.0
    mask_pixels: int = 0
    different: int = 0
    others: list[str] = field(default_factory=list)

    @property
    def mask(self) -> float:
        """Share of the masks' pixels that differ."""
        return self.different / max(self.mask_pixels, 1)

    @property
    def equal(self) -> bool:
        """Whether they are equal to :data:`BOX`, :data:`SCORE` and :data:`MASK`."""
        return not self.others and self.box <= BOX and self.score <= SCORE and self.mask <= MASK

    def __str__(self) -> str:
        """A line of numbers and one for each object that only one has."""
        verdict = "equal" if self.equal else "NOT EQUAL"
        return "\n".join(
            [
                f"{verdict}: {self.objects} objects in {self.pictures} pictures of "
                f"{len(self.sizes)} sizes; boxes differ by {self.box:.1e} pixels at most (limit "
                f"{BOX:g}), scores by {self.score:.1e} ({SCORE:g}), masks by {self.mask:.3%} of "
                f"their pixels ({MASK:.1%}); {len(self.others)} objects more or less",
                *self.others,
            ]
        )


def compare(checkpoint: Detector, exported: Detector, pictures: Iterable[Any]) -> Parity:
    """Give pictures to both; the checkpoint's least score decides what is a tie."""
    parity, pictures = Parity(), [*pictures]
    for mine, theirs in zip(checkpoint.predict(pictures), exported.predict(pictures), strict=True):
        _compare(parity, mine, theirs)
    return parity


def _compare(parity: Parity, mine: Prediction, theirs: Prediction) -> None:
    parity.pictures += 1
    parity.sizes.add(mine.size)
    free, pairs, alone = {*range(len(theirs))}, [], []
    for index in range(len(mine)):
        same = [j for j in free if theirs.labels[j] == mine.labels[index]]
        far = {j: np.abs(theirs.boxes[j] - mine.boxes[index]).max() for j in same}
        best = min(far, key=far.get, default=None)
        if best is not None and far[best] < 1:
            free.remove(best)
            pairs.append((index, best))
        else:
            alone.append((mine, index))
    alone += [(theirs, index) for index in free]
    # what stands next to the threshold, or is the last one of max_per_img
    limits = [min(p.scores, default=0.0) for p in (mine, theirs)]
    for found, index in alone:
        if found.scores[index] > max(limits) + SCORE:
            names = {id(mine): "checkpoint", id(theirs): "exported file"}
            parity.others.append(
                f"only the {names[id(found)]}: {found.names[index]} {found.scores[index]:.4f} at "
                f"{found.boxes[index].round(1).tolist()} of {found.frame.name}"
            )
    if not pairs:
        return
    left, right = map(list, zip(*pairs, strict=True))
    parity.objects += len(pairs)
    parity.box = max(parity.box, float(np.abs(mine.boxes[left] - theirs.boxes[right]).max()))
    parity.score = max(parity.score, float(np.abs(mine.scores[left] - theirs.scores[right]).max()))
    if mine.crops is not None:
        ours, others = mine[left].masks, theirs[right].masks
        parity.mask_pixels += int(ours.sum())
        parity.different += int((ours != others).sum())
