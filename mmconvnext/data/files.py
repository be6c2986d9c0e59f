"""One annotation file and its pictures: read, checked, repaired in a copy, and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmconvnext.data.checks import NO_OBJECTS, Size, check_annotations
from mmconvnext.data.findings import Finding, Findings
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import check_pictures, read_pictures
from mmconvnext.errors import ConfigError

MODES = ("repair", "strict", "off")
FORMAT = 1  # of the cache


@dataclass(frozen=True)
class CheckOptions:
    """``data_checks`` of a config.

    Attributes:
        mode: ``repair``; ``strict``, where what would be repaired is an error; or ``off``.
        pictures: read the pictures of files with at most so many; True for all, False for none.
        max_repaired: share of repaired objects in a file above which it is refused.
        allow: kinds of errors that are noted instead.
    """

    mode: str = "repair"
    pictures: int | bool = 20_000
    max_repaired: float = 0.05
    allow: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> CheckOptions:
        """Read the options of a config.

        Raises:
            ConfigError: an option is unknown or has another value than it can have.
        """
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                raise ConfigError(f"data_checks has no {name!r}; choose of {', '.join(names)}")
        options = cls(**{**(given or {}), "allow": tuple((given or {}).get("allow", ()))})
        if options.mode not in MODES:
            raise ConfigError(
                f"data_checks.mode={options.mode!r} is unknown; choose of {', '.join(MODES)}"
            )
        return options

    def wants(self, count: int) -> bool:
        """Whether pictures of a file with so many are read."""
        return count <= self.pictures if type(self.pictures) is int else self.pictures


@dataclass
class CheckedFile:
    """An annotation file after the check.

    Attributes:
        path: absolute, of the file to use: the given one, or a repaired copy of it.
        classes: names of the labels.
        findings: what was wrong.
        turn: whether pictures are turned as EXIF says.
        objects: how many the file has.
        repaired: how many of them were changed or left out.
    """

    path: str
    classes: tuple[str, ...]
    findings: list[Finding]
    turn: bool
    objects: int
    repaired: int

    def to_json(self, path: Path) -> dict[str, Any]:
        """What was found in the file of a path, with every record."""
        return {
            "file": str(path),
            "used": self.path,
            "classes": self.classes,
            "objects": self.objects,
            "repaired_objects": self.repaired,
            "findings": [{**vars(f), "count": len(f.records)} for f in self.findings],
        }

    def errors(self, options: CheckOptions) -> list[str]:
        """Why the file is refused, a line for each kind."""
        refused = ("error", "repair", "fill") if options.mode == "strict" else ("error",)
        refusals = [
            finding
            for finding in self.findings
            if finding.severity in refused and finding.kind not in options.allow
        ]
        if self.repaired <= options.max_repaired * self.objects:
            return list(map(str, refusals))
        kinds = "; ".join(str(f) for f in self.findings if f.severity == "repair")
        share = (
            f"{self.repaired} of {self.objects} objects ({self.repaired / self.objects:.1%}) would "
            f"be repaired, more than data_checks.max_repaired={options.max_repaired:g}; correct "
            f"the file, or allow more: {kinds}"
        )
        # that none is left follows from it
        others = (f for f in refusals if f.severity == "error" and f.kind != NO_OBJECTS)
        return [share, *map(str, others)]


def check_file(
    path: Path,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None = None,
) -> CheckedFile:
    """Check an annotation file and, where the options ask for it, its pictures.

    Results are kept in a cache by the content of the file and by names, sizes and times of the
    pictures.

    Args:
        path: of the annotation file.
        folder: of the pictures, or None to leave them.
        classes: of ``metainfo``; None for those of the file.
        masks: whether objects need masks.
        options: how to check.
        labels: of the detector, where ``classes`` are some of them.
    """
    path = path.absolute()
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # walking through a folder takes its time, and only pictures that are read can have changed
    reads = folder is not None and options.wants(data.count(b'"file_name"'))
    stamp = _stamp(folder) if reads else ""
    asked = repr((FORMAT, digest, stamp, classes, labels, masks, options.pictures))
    place = cache_folder() / hashlib.sha256(asked.encode()).hexdigest()[:32]
    kept, copy = place.with_suffix(".json"), place.with_suffix(".coco.json")
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if not known["copied"] or copy.is_file():
            findings = [Finding(**each) for each in known["findings"]]
            used = str(copy if known["copied"] else path)
            rest = (known["turn"], known["objects"], known["repaired"])
            return CheckedFile(used, tuple(known["classes"]), findings, *rest)
    checked, content = _check(path, data, folder, classes, masks, options, labels)
    if content is not None:
        checked.path = str(copy)
        write_whole(copy, json.dumps(content))
    known = {
        "copied": content is not None,
        "classes": checked.classes,
        "findings": [vars(finding) for finding in checked.findings],
        "turn": checked.turn,
        "objects": checked.objects,
        "repaired": checked.repaired,
    }
    write_whole(kept, json.dumps(known))
    return checked


def _check(
    path: Path,
    data: bytes,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None,
) -> tuple[CheckedFile, dict[str, Any] | None]:
    """The result, and the content of the repaired file if there has to be one."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        fault = Finding("not COCO", "error", f"it is not JSON: {error}")
        return CheckedFile(str(path), tuple(classes or ()), [fault], True, 0, 0), None
    findings, sizes, turn = Findings(), {}, True
    images = content.get("images") if isinstance(content, dict) else None
    if folder is not None and isinstance(images, list) and options.wants(len(images)):
        pictures = read_pictures(folder, _names(images))
        turn = check_pictures(pictures, _sizes(images), findings)
        sizes = {
            name: Size(*(picture.loaded if turn else picture.stored))
            for name, picture in pictures.items()
            if not picture.fault
        }
    result = check_annotations(content, classes, masks, sizes, labels)
    found = [*findings, *result.findings]
    repaired = len(result.findings.repaired_objects)
    entries = content.get("annotations") if isinstance(content, dict) else None
    objects = len(entries) if isinstance(entries, list) else 0
    checked = CheckedFile(str(path), result.classes, found, turn, objects, repaired)
    return checked, None if result.content is content else result.content


def _names(images: Sequence[Any]) -> Iterator[str]:
    for image in images:
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and name.strip() and "://" not in name:
            yield name.replace("\\", "/")


def _sizes(images: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
    return {
        str(image.get("file_name")).replace("\\", "/"): (image.get("width"), image.get("height"))
        for image in images
        if isinstance(image, dict)
    }


def _stamp(folder: Path) -> str:
    """What changes when a picture in a folder does: names, sizes and times."""
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            state = os.stat(os.path.join(place, name), follow_symlinks=False)
            digest.update(f"{place}/{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where results of checks lie, ``$XDG_CACHE_HOME/mmconvnext`` or ``~/.cache/mmconvnext``.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmconvnext"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"results of data checks cannot be kept in {folder}: {error.strerror}; name another "
            "folder with XDG_CACHE_HOME"
        ) from error
    return folder
