"""The folder of a *shapes* data set: whose files are in it, and whether they are all there.

A folder is ours if an annotation file says so at its head, or the marker of an unfinished run does;
both give the number of images, and so the names of the files. All else belongs to somebody and is
neither replaced nor deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmconvnext.errors import UserError

SPLITS = ("train", "val")
DESCRIPTION = "mmconvnext shapes"
UNFINISHED = "shapes.unfinished"  # the marker, there from before the first change to the last

Info = dict[str, Any]


class ShapesError(UserError, ValueError):
    """An argument or a folder that :func:`mmconvnext.data.generate_shapes` cannot use."""


def annotation_file(out_dir: Path, split: str) -> Path:
    """Where the annotations of a split are."""
    return out_dir / "annotations" / f"instances_{split}.json"


def is_complete(out_dir: Path, wanted: Mapping[str, Info]) -> bool:
    """Tell whether the splits with these parameters are there, with all their images.

    Args:
        out_dir: folder of the data set.
        wanted: the ``info`` of each split.
    """
    return (
        not (out_dir / UNFINISHED).exists()
        and _infos(out_dir) == wanted
        and _names(wanted.values()) <= _present(out_dir)
    )


@contextmanager
def writing(out_dir: Path, wanted: Mapping[str, Info], overwrite: bool) -> Iterator[None]:
    """Make room for a data set; it counts as unfinished until the block ends without an error.

    Args:
        out_dir: folder of the data set.
        wanted: the ``info`` of each split that the block writes.
        overwrite: replace what *shapes* wrote with other parameters.

    Raises:
        ShapesError: something in the folder would be lost.
    """
    found = _infos(out_dir)
    claims = [*found.values(), *_claims(out_dir)]
    _check(out_dir, found, claims, wanted, overwrite)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json(out_dir / UNFINISHED, [*claims, *wanted.values()])
    for name in _names(claims):
        (out_dir / name).unlink(missing_ok=True)
    for folder in ("annotations", *SPLITS):
        (out_dir / folder).mkdir(exist_ok=True)
    yield
    (out_dir / UNFINISHED).unlink()


def write_json(path: Path, content: object) -> None:
    """Write a file that is either whole or not there."""
    _part(path).write_text(json.dumps(content), encoding="utf-8")
    os.replace(_part(path), path)


def _part(path: Path) -> Path:
    return path.with_suffix(".part")


def _infos(out_dir: Path) -> dict[str, Info]:
    """The parameters at the head of each annotation file that *shapes* wrote."""
    infos = {}
    for split in SPLITS:
        try:
            with annotation_file(out_dir, split).open(encoding="utf-8") as file:
                head = file.read(1024)
            start = '{"info": '
            info = json.JSONDecoder().raw_decode(head, len(start))[0]
        except (FileNotFoundError, ValueError):
            continue
        if head.startswith(start) and _is_ours(info) and info["split"] == split:
            infos[split] = info
    return infos


def _is_ours(info: object) -> bool:
    return (
        isinstance(info, dict)
        and info.get("description") == DESCRIPTION
        and info.get("split") in SPLITS
        and isinstance(info.get("num_images"), int)
    )


def _claims(out_dir: Path) -> list[Info]:
    """The parameters of what an unfinished run wrote or was to replace."""
    try:
        content = json.loads((out_dir / UNFINISHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return [info for info in content if _is_ours(info)] if isinstance(content, list) else []


def _names(infos: Iterable[Info]) -> set[str]:
    """The files of splits with these parameters, relative to the data set's folder."""
    names = set()
    for info in infos:
        names.add(f"annotations/instances_{info['split']}.json")
        names.update(f"{info['split']}/{i:06d}.png" for i in range(info["num_images"]))
    return names


def _with_temporary(names: set[str]) -> set[str]:
    documents = {UNFINISHED, *(name for name in names if name.endswith(".json"))}
    return names | documents | {_part(Path(name)).as_posix() for name in documents}


def _present(out_dir: Path) -> set[str]:
    """What lies in the folder, and in those folders in it that *shapes* writes to."""
    names = {path.name for path in out_dir.iterdir()} if out_dir.exists() else set()
    folders = {name for name in ("annotations", *SPLITS) if (out_dir / name).is_dir()}
    inside = {f"{name}/{path.name}" for name in folders for path in (out_dir / name).iterdir()}
    return (names - folders) | inside


def _check(
    out_dir: Path,
    found: Mapping[str, Info],
    claims: list[Info],
    wanted: Mapping[str, Info],
    overwrite: bool,
) -> None:
    """Refuse to write over what is not ours, or is ours with other parameters."""
    folder = f"out_dir={str(out_dir)!r}"
    foreign = _present(out_dir) - (_with_temporary(_names(claims)) if claims else set())
    if in_the_way := foreign & _with_temporary(_names(wanted.values())):
        raise ShapesError(
            f"{folder} holds another data set: {min(in_the_way)} ({len(in_the_way)} files in all) "
            "was not written by shapes and would be lost; choose an empty folder"
        )
    if foreign and not claims and not overwrite:
        raise ShapesError(
            f"{folder} holds other files: {min(foreign)} ({len(foreign)} in all); choose an empty "
            "folder, or overwrite=True (--overwrite) to write beside them"
        )
    differing = {split: info for split, info in found.items() if info != wanted[split]}
    if differing and not overwrite:
        raise ShapesError(
            f"{folder} holds shapes with other parameters ({differing}); choose another folder, or "
            "overwrite=True (--overwrite) to replace them"
        )
