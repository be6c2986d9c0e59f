"""Names of classes and ids, as people spell them, and colours of classes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any
from unicodedata import normalize

from mmconvnext.errors import DataError

NEAR = 0.66  # likeness of names from which one is taken for a misspelling of the other


def key_of(value: Any) -> str | None:
    """An id as text, the same for 7, 7.0 and "7"; None for what is no id."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def plain_name(name: str) -> str:
    """A class's name without case, and with one blank for blanks, underscores and hyphens.

    An umlaut is the same as one letter and as a letter with a mark.
    """
    name = normalize("NFC", name)
    return " ".join(name.replace("_", " ").replace("-", " ").split()).casefold()


def nearest_name(name: str, others: Iterable[str]) -> str | None:
    """That of other names which one is a misspelling of, if any."""
    plain = {plain_name(other): other for other in others}
    near = get_close_matches(plain_name(name), plain, n=1, cutoff=NEAR)
    return plain[near[0]] if near else None


def did_you_mean(name: str, others: Iterable[str]) -> str:
    """A question to add to a message, or nothing where no other name is near."""
    near = nearest_name(name, others)
    return f" (did you mean {near!r}?)" if near else ""


def name_list(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)


def check_known(classes: Sequence[str], labels: Sequence[str], owner: object) -> tuple[str, ...]:
    """The labels of a detector that knows all classes of some data; others are a DataError."""
    unknown = [name for name in classes if name not in labels]
    if unknown:
        raise DataError(
            f"{owner}: the detector has no class {unknown[0]!r}{did_you_mean(unknown[0], labels)}, "
            f"but {len(labels)} others, {name_list(labels)}; name the classes alike in training, "
            "validation and test, or train on this data"
        )
    return tuple(labels)


def palette_of(count: int) -> list[tuple[int, int, int]]:
    """As many colours (RGB, 0-255) that differ from each other, the same in every run."""
    hues = [(0.02 + 0.618034 * index) % 1 for index in range(count)]
    values = [(0.85, 1.0, 0.7)[index % 3] for index in range(count)]
    colours = [colorsys.hsv_to_rgb(h, 0.75, v) for h, v in zip(hues, values, strict=True)]
    return [tuple(round(255 * part) for part in colour) for colour in colours]
