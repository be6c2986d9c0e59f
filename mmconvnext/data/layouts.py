"""Which layout a folder of pictures and annotations has."""

from __future__ import annotations

from pathlib import Path

from mmconvnext.data.formats import coco
from mmconvnext.data.formats.common import Split


def read_layout(root: Path) -> tuple[str, dict[str, Split]]:
    """Find the layout of a folder and read its splits: the name of the format, and the splits."""
    return "coco", coco.read(root)
