"""Pascal VOC's layout: an XML file of boxes for each picture.

VOC counts pixels from 1 and both ends in: a box from pixel 1 to pixel 10 is 10 wide. Tools that
count from 0 give themselves away by a 0; their boxes are taken as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from mmconvnext.data.formats import common
from mmconvnext.data.formats.common import Labelled, Shape, Split
from mmconvnext.data.paths import write_whole
from mmconvnext.errors import DataError

ENDS = ("xmin", "ymin", "xmax", "ymax")
LISTS = "ImageSets/Main"


def find(root: Path) -> dict[Path, Element]:
    """VOC's files in a folder."""
    trees = {path: common.read_xml(path) for path in sorted(root.rglob("*.xml"))}
    return {path: tree for path, tree in trees.items() if tree.tag == "annotation"}


def read(root: Path, found: Mapping[Path, Element]) -> dict[str, Split]:
    """The splits of a folder: by lists in ``ImageSets/Main``, or by folders."""
    lists = {s: p for s in common.SPLIT_NAMES if (p := root / LISTS / f"{s}.txt").is_file()}
    files = [(s, path) for s, file in lists.items() for path in _listed(file, root / "Annotations")]
    files = files if lists else common.in_splits(root, found)
    trees = [found[path] for _, path in files]
    ends = [box.findtext(end, "") for t in trees for box in t.iter("bndbox") for end in ENDS]
    first = 0 if any(end.strip() in ("0", "0.0") for end in ends) else 1
    finder, pictures = common.PictureFinder(root), []
    for split, path in files:
        name, size = finder.find(path, found[path].findtext("filename") or "", path.stem)
        shapes = [_shape(path, each, first) for each in found[path].iter("object")]
        pictures.append(Labelled(split, name, size, shapes))
    return common.make_splits(pictures, root)


def _listed(path: Path, folder: Path) -> list[Path]:
    """The files of a list: a line is a name, which may have blanks, or that and 1, 0 or -1."""
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    files = [(folder / f"{n}.xml", folder / f"{n.rpartition(' ')[0].strip()}.xml") for n in names]
    return [a if a.is_file() else b for name, (a, b) in zip(names, files, strict=True) if name]


def _shape(path: Path, node: Element, first: int) -> Shape:
    box = node.find("bndbox")
    try:
        x1, y1, x2, y2 = (float(box.findtext(end)) for end in ENDS)
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path}: an object has no bndbox of {', '.join(ENDS)}") from None
    x1, y1 = x1 - first, y1 - first
    # not counted in VOC's AP: COCO's way to say so
    difficult = node.findtext("difficult", "0").strip() == "1"
    return Shape(node.findtext("name", "").strip(), (), [x1, y1, x2 - x1, y2 - y1], difficult)


def write(splits: Mapping[str, Split], root: Path) -> None:
    """Write splits; masks are left out, as these files have none."""
    stems: dict[str, list[str]] = defaultdict(list)
    for split, name, size, shapes in common.place_pictures(splits, root, "JPEGImages"):
        stem = Path(name).with_suffix("").as_posix()
        stems[split].append(f"{stem}\n")
        size = dict(zip(("width", "height", "depth"), (*size, 3), strict=True))
        content = {"filename": name, "size": size, "object": [_object(shape) for shape in shapes]}
        tree = common.element("annotation", content)
        common.write_xml(root / "Annotations" / f"{stem}.xml", tree)
    for split in splits:
        write_whole(root / LISTS / f"{split}.txt", "".join(stems[split]))


def _object(shape: Shape) -> dict:
    x, y, w, h = shape.box
    ends = [f"{value:.12g}" for value in (x + 1, y + 1, x + w, y + h)]
    box = dict(zip(ENDS, ends, strict=True))
    return {"name": shape.label, "difficult": int(shape.crowd), "bndbox": box}
