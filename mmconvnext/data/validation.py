"""Which images to validate on: by class, copies of a picture together, the same in every run."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmconvnext.weights.checksum import sha256_of

VAL_SHARE = 0.15


def choose_validation(
    labels: Sequence[set[Hashable]], sizes: Sequence[int], share: float = VAL_SHARE
) -> set[int]:
    """Choose groups of images for validation so that each class has its share there.

    Iterative stratification (Sechidis et al., 2011): from the rarest class on, each group goes to
    the side that lacks more of the class. A class of few groups is
    trained on; where that leaves no group with objects for validation, one is taken.

    Args:
        labels: classes of each of N groups.
        sizes: images in each of them.
        share: of the images, for validation.

    Returns:
        Indices: at least one, and not all; none for less than two groups.
    """
    if len(labels) < 2:
        return set()
    without: Hashable = None  # the class of images without objects
    labels = [found or {without} for found in labels]
    counts = Counter(chain.from_iterable(labels))
    wanted = {
        "train": {name: (1 - share) * count for name, count in counts.items()},
        "val": {name: share * count for name, count in counts.items()},
    }
    left = share * sum(sizes)
    # in an order that has nothing to do with that of the file
    shuffled = sorted(range(len(labels)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    chosen: dict[int, bool] = {}
    for name in sorted(counts, key=lambda name: (counts[name], str(name))):
        for index in shuffled:
            if index in chosen or name not in labels[index]:
                continue
            chosen[index] = wanted["val"][name] > wanted["train"][name] and left > 0
            left -= sizes[index] * chosen[index]
            for each in labels[index]:
                wanted["val" if chosen[index] else "train"][each] -= 1
    _fill_up(chosen, shuffled, labels, sizes, left)
    indices = {index for index in shuffled if chosen[index]}
    if any(labels[index] != {without} for index in indices):
        return indices
    # few images: that with objects whose rarest class is the most frequent elsewhere
    counts[without] = 0
    return {max(shuffled, key=lambda i: min(counts[name] for name in labels[i]))}


def _fill_up(
    chosen: dict[int, bool],
    order: Sequence[int],
    labels: Sequence[set[Hashable]],
    sizes: Sequence[int],
    left: float,
) -> None:
    """Choose more groups where many rare classes left too few, but none that a class needs."""
    trained = Counter(name for index in chosen if not chosen[index] for name in labels[index])
    for index in order:
        if not chosen[index] and sizes[index] <= left and min(map(trained.get, labels[index])) > 1:
            chosen[index] = True
            left -= sizes[index]
            trained.subtract(labels[index])


def same_pictures(paths: Sequence[Path]) -> list[list[int]]:
    """Group files that are equal, byte by byte; one that is absent is a group of its own.

    Returns:
        For each group the indices of its files.
    """
    there = [index for index, path in enumerate(paths) if path.is_file()]
    groups = [[index] for index in set(range(len(paths))).difference(there)] + [there] * bool(there)
    for key in (lambda path: path.stat().st_size, _head, sha256_of):  # few are read as a whole
        finer = []
        for group in groups:
            by_key: dict[Any, list[int]] = defaultdict(list)
            for index in group:
                by_key[key(paths[index]) if len(group) > 1 else None].append(index)
            finer += by_key.values()
        groups = finer
    return sorted(groups)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 14)
