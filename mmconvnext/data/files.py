"""One annotation file and its pictures: read, checked, repaired in a copy, and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from mmconvnext.data.checks import check_annotations
from mmconvnext.data.findings import FAULTS, Findings
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import read_pictures
from mmconvnext.errors import ConfigError

MODES = ("repair", "strict", "off")
FORMAT = 4  # of the cache


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
    allow: Sequence[str] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> CheckOptions:
        """Those of a config; one that is unknown or has no such value is a ConfigError."""
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                raise ConfigError(f"data_checks has no {name!r}; choose of {', '.join(names)}")
        options = cls(**(given or {}))
        for kind in options.allow:
            if kind not in FAULTS:
                raise ConfigError(f"data_checks.allow has {kind!r}, which is no kind of fault")
        if options.mode not in MODES:
            raise ConfigError(
                f"data_checks.mode={options.mode!r} is unknown; choose of {', '.join(MODES)}"
            )
        return options

    def refusals(self, found: Findings) -> list[str]:
        """Why a file in which something was found is refused, a line for each kind."""
        refused = found.of("error", *(("repair", "fill") if self.mode == "strict" else ()))
        refused = [finding for finding in refused if finding.kind not in self.allow]
        if found.repaired <= self.max_repaired * found.objects:
            return list(map(str, refused))
        share = (
            f"{found.repaired} of {found.objects} objects ({found.repaired / found.objects:.1%}) "
            f"would be repaired, more than data_checks.max_repaired={self.max_repaired:g}; correct "
            f"the file, or allow more: {'; '.join(map(str, found.of('repair')))}"
        )
        # that none is left follows from it
        others = [f for f in refused if f.severity == "error" and f.kind != "no objects"]
        return [share, *map(str, others)]


def check_file(
    path: Path,
    folder: Path | None,
    classes: Sequence[str] | None,
    masks: bool,
    options: CheckOptions,
    labels: Sequence[str] | None = None,
) -> Findings:
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
    path, limit = path.absolute(), options.pictures
    data = path.read_bytes()
    if limit is not True and data.count(b'"file_name"') > (limit or -1):
        folder = None
    stamp = "" if folder is None else _stamp(folder)
    digest = hashlib.sha256(data).hexdigest()
    asked = repr((FORMAT, str(path), digest, stamp, classes, labels, masks, limit))
    place = cache_folder() / hashlib.sha256(asked.encode()).hexdigest()[:32]
    kept, copy = place.with_suffix(".json"), place.with_suffix(".coco.json")
    if kept.is_file():
        found = Findings.from_json(json.loads(kept.read_text(encoding="utf-8")))
        if Path(found.path).is_file():
            return found
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = Findings(classes=tuple(classes or ()), path=str(path))
        found.add("not COCO", text=f"it is not JSON: {error}")
        return found
    read = None if folder is None else partial(read_pictures, folder)
    checked, found = check_annotations(content, classes, masks, read, labels)
    found.path = str(path if checked is content else copy)
    if checked is not content:
        write_whole(copy, json.dumps(checked))
    write_whole(kept, json.dumps(asdict(found)))
    return found


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
