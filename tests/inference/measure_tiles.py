"""How many objects a detector finds twice, in tiles and without: by the tiles, or by itself.

``python tests/inference/measure_tiles.py RUN_DIR [SCENES]`` gives the detector of a training on
*shapes* a picture of so many by so many scenes (15: 2400 pixels), in tiles, and in pieces that cut
no object. What one tile finds twice, the detector finds twice.
"""

import sys

import numpy as np
from measure_predict import SCENE, TILE, draw_scenes, hits

from mmconvnext import Detector
from mmconvnext.inference import detector as module

SCORE = 0.3
PIECE = 5 * SCENE  # pixels of a side


def rows(found) -> np.ndarray:
    """Detections as x, y, width, height, class."""
    boxes = found.boxes.astype(float)
    return np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], found.labels])


def say(what: str, found: np.ndarray) -> None:
    """Print how many objects (columns) have a detection (rows), and how many have two."""
    once, twice = ((found.sum(0) > times).sum() for times in (0, 1))
    print(f"{what}: {once} of {found.shape[1]} objects found, {twice} twice ({twice / once:.1%})")


def main(run: str, scenes: int) -> None:
    """Compare on one picture."""
    whole, objects = draw_scenes(scenes)
    merge, seen = module.merge, []

    def look(parts):
        seen[:] = [rows(found.above(SCORE)) for _, found in parts]
        return merge(parts)

    module.merge = look
    tiled = hits(objects, rows(Detector(run, tile=TILE)(whole).above(SCORE)))
    by_tile = np.array([hits(objects, found).sum(0) for found in seen if len(found)])
    detector, found = Detector(run), []
    for top in range(0, len(whole), PIECE):
        for left in range(0, len(whole), PIECE):
            piece = whole[top : top + PIECE, left : left + PIECE]
            found.append(rows(detector(piece).above(SCORE)) + (left, top, 0, 0, 0))
    say(f"in tiles of {TILE} pixels", tiled)
    say(f"untiled, in pieces of {PIECE} pixels", hits(objects, np.concatenate(found)))
    twice = tiled.sum(0) > 1
    print(f"of those twice in tiles, {(by_tile[:, twice] > 1).any(0).sum()} twice in one tile")


if __name__ == "__main__":
    main(sys.argv[1], int(*sys.argv[2:] or [15]))
