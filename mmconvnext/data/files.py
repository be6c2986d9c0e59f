"""One annotation file and its pictures: read, checked, repaired in a copy, and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmconvnext.data.checks import NO_OBJECTS, check_annotations
from mmconvnext.data.faults import FAULTS
from mmconvnext.data.findings import Finding, Findings
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import check_pictures, read_pictures
from mmconvnext.errors import ConfigError

MODES = ("repair", "strict", "off")
FORMAT = 3  # of the cache


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
        for kind in (given or {}).get("allow", ()):
            if kind not in FAULTS:
                raise ConfigError(f"data_checks.allow has {kind!r}, which is no kind of fault")
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
    turn: bool = True
    objects: int = 0
    repaired: int = 0

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
    # walking through a folder takes its time, and only pictures that are read can have changed
    reads = folder is not None and options.wants(data.count(b'"file_name"'))
    stamp = _stamp(folder) if reads else ""
    digest = hashlib.sha256(data).hexdigest()
    asked = repr((FORMAT, str(path), digest, stamp, classes, labels, masks, options.pictures))
    place = cache_folder() / hashlib.sha256(asked.encode()).hexdigest()[:32]
    kept, copy = place.with_suffix(".json"), place.with_suffix(".coco.json")
    if kept.is_file():
        known = CheckedFile(**json.loads(kept.read_text(encoding="utf-8")))
        if Path(known.path).is_file():
            known.classes = tuple(known.classes)
            known.findings = [Finding(**each) for each in known.findings]
            return known
    checked, content = _check(data, folder if reads else None, classes, masks, labels)
    checked.path = str(path if content is None else copy)
    if content is not None:
        write_whole(copy, json.dumps(content))
    write_whole(kept, json.dumps(asdict(checked)))
    return checked


def _check(
    data: bytes,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    labels: Sequence[str] | None,
) -> tuple[CheckedFile, dict[str, Any] | None]:
    """The result, and the content of the repaired file if there has to be one."""
    findings, sizes, turn = Findings(), {}, True
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        findings.add("not COCO", text=f"it is not JSON: {error}")
        return CheckedFile("", tuple(classes or ()), [*findings]), None
    if folder is not None:
        named = _sizes(content)
        pictures = read_pictures(folder, named)
        turn = check_pictures(pictures, named, findings)
        sizes = {
            name: picture.loaded if turn else picture.stored
            for name, picture in pictures.items()
            if not picture.fault
        }
    result = check_annotations(content, classes, masks, sizes, labels)
    found = [*findings, *result.findings]
    entries = content.get("annotations") if isinstance(content, dict) else None
    objects = len(entries) if isinstance(entries, list) else 0
    repaired = len(result.findings.repaired_objects)
    checked = CheckedFile("", result.classes, found, turn, objects, repaired)
    return checked, None if result.content is content else result.content


def _sizes(content: Any) -> dict[str, tuple[Any, Any]]:
    """The names of a file's pictures, as paths, with the width and height that it says."""
    images = content.get("images") if isinstance(content, dict) else None
    sizes = {}
    for image in images if isinstance(images, list) else ():
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and name.strip() and "://" not in name:
            sizes[name.replace("\\", "/")] = (image.get("width"), image.get("height"))
    return sizes


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
