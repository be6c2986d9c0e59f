"""Which layout a folder of pictures and annotations has."""

from __future__ import annotations

from pathlib import Path

from mmconvnext.data.formats import FORMATS
from mmconvnext.data.formats.common import PICTURES, Split
from mmconvnext.errors import DataError

EXPECTED = (
    "COCO's JSON (also Roboflow's, CVAT's and Label Studio's), YOLO's data.yaml, Pascal VOC's XML, "
    "Label Studio's tasks, CVAT's XML, or labelme's JSON beside the pictures"
)


def read_layout(root: Path) -> tuple[str, dict[str, Split]]:
    """Find the layout of a folder and read its splits: the name of the format, and the splits.

    Raises:
        DataError: it has no known layout, or several.
    """
    found = {name: files for name, module in FORMATS.items() if (files := module.find(root))}
    if not found:
        files = [path for path in root.rglob("*") if path.is_file()]
        pictures = sum(path.suffix.lower() in PICTURES for path in files)
        raise DataError(
            f"{root} has no annotations of a known layout among its {len(files)} files, "
            f"{pictures} of them pictures; looked for were {EXPECTED}"
        )
    if len(found) > 1:
        listed = "; ".join(f"{name}: {_shown(root, files)}" for name, files in found.items())
        raise DataError(
            f"{root} has annotations of several layouts ({listed}): remove all but one, or give "
            "the folder of one"
        )
    (name,) = found
    try:
        return name, FORMATS[name].read(root)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{root}: its annotations are not {name}'s, though they look like it "
            f"({_shown(root, found[name])}): {type(error).__name__}: {error}"
        ) from error


def _shown(root: Path, files: list[Path]) -> str:
    names = ", ".join(path.relative_to(root).as_posix() for path in files[:2])
    return names + f" and {len(files) - 2} more" * (len(files) > 2)
