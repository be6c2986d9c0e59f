"""Which images to validate on: by class, copies of a picture together, the same in every run."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmconvnext.weights.download import sha256_of

VAL_SHARE = 0.15
NO_OBJECT: Hashable = None  # the class of images without objects


def choose_validation(labels: Sequence[set[Hashable]], sizes: Sequence[int]) -> set[int]:
    """Choose groups of images for validation so that each class has its share there.

    Iterative stratification (Sechidis et al., 2011): from the rarest class on, each group goes to
    the side that lacks more of the class. A class of few groups is trained on; where that leaves no
    group with objects for validation, one is taken.

    Args:
        labels: classes of each of N groups.
        sizes: images in each of them.

    Returns:
        Indices: at least one, and not all; none for less than two groups.
    """
    if len(labels) < 2:
        return set()
    labels = [found or {NO_OBJECT} for found in labels]
    counts = Counter(chain.from_iterable(labels))
    lacks_val = {name: VAL_SHARE * count for name, count in counts.items()}
    lacks_train = {name: (1 - VAL_SHARE) * count for name, count in counts.items()}
    left = VAL_SHARE * sum(sizes)
    # in an order that has nothing to do with that of the file
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    chosen: dict[int, bool] = {}
    for name in sorted(counts, key=lambda name: (counts[name], str(name))):
        for index in (i for i in order if i not in chosen and name in labels[i]):
            chosen[index] = lacks_val[name] > lacks_train[name] and left > 0
            left -= sizes[index] * chosen[index]
            for each in labels[index]:
                (lacks_val if chosen[index] else lacks_train)[each] -= 1
    # more where many rare classes left too few, but none that a class needs
    trained = Counter(name for index in order if not chosen[index] for name in labels[index])
    for index in order:
        if not chosen[index] and sizes[index] <= left and min(map(trained.get, labels[index])) > 1:
            chosen[index] = True
            left -= sizes[index]
            trained.subtract(labels[index])
    indices = {index for index in order if chosen[index]}
    if any(labels[index] != {NO_OBJECT} for index in indices):
        return indices
    # few images: that with objects whose rarest class is the most frequent elsewhere
    counts[NO_OBJECT] = 0
    return {max(order, key=lambda i: min(counts[name] for name in labels[i]))}


def same_pictures(paths: Sequence[Path]) -> list[list[int]]:
    """The indices of files in groups that are equal, byte by byte; an absent one is alone."""
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
