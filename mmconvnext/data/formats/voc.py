"""Pascal VOC's layout: an XML file of boxes for each picture.

VOC counts pixels from 1 and both ends in: a box from pixel 1 to pixel 10 is 10 wide. Tools that
count from 0 give themselves away by a 0; their boxes are taken as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from mmconvnext.data.formats.common import (
    PICTURES,
    SPLIT_NAMES,
    Labelled,
    Shape,
    Split,
    element,
    make_splits,
    place_pictures,
    read_xml,
    split_folders,
    write_xml,
)
from mmconvnext.data.paths import write_whole
from mmconvnext.data.pictures import picture_size
from mmconvnext.errors import DataError

ENDS = ("xmin", "ymin", "xmax", "ymax")
LISTS = "ImageSets/Main"


def find(root: Path) -> list[Path]:
    """Where the XML files are: one folder, or one for each split."""
    return sorted({p.parent for p in root.rglob("*.xml") if read_xml(p).tag == "annotation"})


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder: by lists in ``ImageSets/Main``, or by folders."""
    lists = {s: p for s in SPLIT_NAMES if (p := root / LISTS / f"{s}.txt").is_file()}
    files = {split: _listed(path, root / "Annotations") for split, path in lists.items()}
    if not lists:
        files = {s: sorted(folder.rglob("*.xml")) for s, folder in split_folders(root).items()}
    trees = {path: read_xml(path) for paths in files.values() for path in paths}
    ends = [box.findtext(k, "") for t in trees.values() for box in t.iter("bndbox") for k in ENDS]
    first = 0 if any(end.strip() in ("0", "0.0") for end in ends) else 1
    pictures = []
    for split, paths in files.items():
        for path in paths:
            picture = _picture(path, trees[path])
            name, size = picture.relative_to(root).as_posix(), picture_size(picture)
            shapes = [_shape(path, each, first) for each in trees[path].iter("object")]
            pictures.append(Labelled(split, name, size, shapes))
    return make_splits(pictures, root)


def _listed(path: Path, folder: Path) -> list[Path]:
    """The files of a list: a line is a name, which may have blanks, or that and 1, 0 or -1."""
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    files = [(folder / f"{n}.xml", folder / f"{n.rpartition(' ')[0].strip()}.xml") for n in names]
    return [a if a.is_file() else b for name, (a, b) in zip(names, files, strict=True) if name]


def _picture(path: Path, tree: Element) -> Path:
    given = (tree.findtext("filename") or path.stem).replace("\\", "/")
    name = Path(given).name
    above = path.parents[1:3]
    folders = [path.parent, *(p / each for p in above for each in ("JPEGImages", "images"))]
    stems = [given, name, *(f"{path.stem}{suffix}" for suffix in PICTURES)]
    for place in (folder / each for folder in folders for each in stems):
        if place.is_file():
            return place
    raise DataError(f"{path}: its picture {name} is neither beside it nor in JPEGImages")


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
    for picture in place_pictures(splits, root, "JPEGImages"):
        stem = Path(picture.name).with_suffix("").as_posix()
        stems[picture.split].append(f"{stem}\n")
        size = dict(zip(("width", "height", "depth"), (*picture.size, 3), strict=True))
        objects = [_element(shape) for shape in picture.shapes]
        tree = {"filename": picture.name, "size": size, "object": objects}
        write_xml(root / "Annotations" / f"{stem}.xml", element("annotation", tree))
    for split in splits:
        write_whole(root / LISTS / f"{split}.txt", "".join(stems[split]))


def _element(shape: Shape) -> Element:
    x, y, w, h = shape.box
    ends = [f"{value:.12g}" for value in (x + 1, y + 1, x + w, y + h)]
    box = dict(zip(ENDS, ends, strict=True))
    return element("object", {"name": shape.label, "difficult": int(shape.crowd), "bndbox": box})
