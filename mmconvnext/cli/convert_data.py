"""Convert annotations of any known layout to another format."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("coco", "yolo", "voc", "labelstudio", "cvat", "labelme")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("data", metavar="IN", help="folder of pictures and annotations")
    parser.add_argument("out", metavar="OUT", help="folder to write; absent or empty")
    parser.add_argument("--to", choices=FORMATS, required=True, help="format to write")


def run(args: argparse.Namespace) -> None:
    """Read, write, and say what was found and what the format cannot hold."""
    from mmconvnext.data.formats.common import pictures_in
    from mmconvnext.data.layouts import check_target, read_layout, write_layout
    from mmconvnext.errors import DataError

    root, out = Path(args.data), Path(args.out)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    check_target(out)
    name, splits = read_layout(root)
    lost = write_layout(splits, args.to, out)
    for note in dict.fromkeys(note for each in splits.values() for note in each.notes):
        print(note)
    for split, each in splits.items():
        images, objects = len(each.content["images"]), len(each.content["annotations"])
        print(f"{split}: {images} images, {objects} objects")
    for line in lost:
        print(f"not the same in {args.to}: {line}")
    if any(path.stat().st_nlink > 1 for path in pictures_in(out)):
        print(f"the pictures in {out} are hard links: one that is edited changes in {root}, too")
    print(f"converted {name} to {args.to}: {out}")
