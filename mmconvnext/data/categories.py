"""Categories of a COCO file against the classes of a config: names, ids, and their order. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mmconvnext.data.findings import Findings
from mmconvnext.errors import DataError

Entries = list[dict[str, Any]]
Ids = dict[str | None, int | None]  # the new ones by what :func:`key_of` makes of the old ones
NEAR = 0.66  # likeness of names from which one is taken for a misspelling of the other


def key_of(value: Any) -> str | None:
    """An id as text, the same for 7, 7.0 and "7"; None for what is no id."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def check_categories(
    content: Mapping[str, Any],
    classes: Sequence[str] | None,
    labels: Sequence[str] | None,
    findings: Findings,
) -> tuple[Entries, Ids, tuple[str, ...]]:
    """The categories in the order of the labels, the new ids by the old ones, and the labels.

    None stands for a category that is no class: its objects are left out.
    """
    entries = content["categories"]
    _check_category_entries(entries, findings)
    names = [entry["name"] for entry in entries]
    classes = tuple(names if classes is None else classes)
    labels = tuple(classes if labels is None else labels)
    if findings.of("error"):
        return entries, {}, labels
    counts = Counter(key_of(a["category_id"]) for a in content["annotations"])
    objects = {entry["name"]: counts[key_of(entry["id"])] for entry in entries}
    _check_class_names(classes, objects, findings)
    in_order = [name for name in names if name in classes] == list(labels)
    if in_order and all(type(entry["id"]) is int for entry in entries):
        return entries, {key_of(entry["id"]): entry["id"] for entry in entries}, labels
    findings.add("order of categories")
    by_name = {entry["name"]: entry for entry in entries}
    new = [{**by_name.get(c, {}), "id": i, "name": c} for i, c in enumerate(labels, start=1)]
    ids = {entry["name"]: entry["id"] for entry in new if entry["name"] in classes}
    return new, {key_of(entry["id"]): ids.get(entry["name"]) for entry in entries}, labels


def _check_category_entries(entries: Entries, findings: Findings) -> None:
    by_id: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for entry in entries:
        key, name = key_of(entry["id"]), entry["name"]
        if key is None or not isinstance(name, str) or not name.strip():
            findings.add("category", f"id {entry['id']!r}, name {name!r}")
            continue
        if key in by_id:
            findings.add("one category id", f"{key}: {by_id[key]!r} and {name!r}")
        if name in by_name:
            findings.add("one category name", f"{name!r}: {by_name[name]} and {key}")
        by_id[key], by_name[name] = name, key


def _check_class_names(
    classes: Sequence[str], objects: Mapping[str, int], findings: Findings
) -> None:
    """Compare the config's classes with the categories of the file and their counts of objects."""
    for name, count in Counter(classes).items():
        if count > 1:
            findings.add("class twice", repr(name))
    missing = [name for name in classes if name not in objects]
    extra = [name for name in objects if name not in classes]
    if missing and len(missing) == len(classes):
        found = name_list([*objects]) or "none"
        findings.add("other classes", f"{name_list(classes)}, in the file {found}")
        return
    for name in missing:
        if near := _nearest(name, extra):
            findings.add("misspelt class", f"{name!r}, in the file {near!r}")
        else:
            findings.add("class without category", repr(name))
    for name in extra:
        findings.add("category without class", f"{name!r} with {objects[name]} objects")


def check_known(classes: Sequence[str], labels: Sequence[str], owner: object) -> tuple[str, ...]:
    """The labels of a detector that knows all classes of some data; others are a DataError."""
    unknown = [name for name in classes if name not in labels]
    if unknown:
        raise DataError(
            f"{owner}: the detector has no class {unknown[0]!r}, but {len(labels)} others, "
            f"{name_list(labels)}; name the classes alike in training, validation and test, or "
            "train on this data"
        )
    return tuple(labels)


def name_list(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)


def plain_name(name: str) -> str:
    """A class's name without case, and with one blank for blanks, underscores and hyphens."""
    return " ".join(name.replace("_", " ").replace("-", " ").split()).casefold()


def _nearest(name: str, others: Sequence[str]) -> str | None:
    plain = {plain_name(other): other for other in others}
    near = get_close_matches(plain_name(name), plain, n=1, cutoff=NEAR)
    return plain[near[0]] if near else None
