"""Pascal VOC's layout: an XML file of boxes for each picture.

VOC counts pixels from 1 and both ends in: a box from pixel 1 to pixel 10 is 10 wide. Tools that
count from 0 give themselves away by a 0; their boxes are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from mmconvnext.data.formats.common import (
    PICTURES,
    CocoBuilder,
    Split,
    bring_pictures,
    objects_of,
    parse_xml,
    picture_size,
    prefixes,
    split_folders,
)
from mmconvnext.errors import DataError

ENDS = ("xmin", "ymin", "xmax", "ymax")


def find(root: Path) -> list[Path]:
    """Where the XML files are: one folder, or one for each split."""
    folders = {path.parent for path in root.rglob("*.xml") if parse_xml(path).tag == "annotation"}
    return sorted(folders)


def read(root: Path) -> dict[str, Split]:
    """Read the splits of a folder: by lists in ``ImageSets/Main``, or by folders."""
    lists = {
        split: path
        for split in ("train", "val", "test")
        if (path := root / "ImageSets" / "Main" / f"{split}.txt").is_file()
    }
    if lists:
        chosen = {
            split: [_of_line(root / "Annotations", line) for line in _lines(path)]
            for split, path in lists.items()
        }
    else:
        chosen = {s: sorted(f.rglob("*.xml")) for s, f in split_folders(root).items()}
    chosen = {split: files for split, files in chosen.items() if files}
    trees = {path: parse_xml(path) for files in chosen.values() for path in files}
    first = 0 if any(_has_zero(tree) for tree in trees.values()) else 1
    objects = [each for tree in trees.values() for each in tree.iter("object")]
    names = sorted({each.findtext("name", "").strip() for each in objects})
    splits = {}
    for split, files in chosen.items():
        builder = CocoBuilder(names)
        for path in files:
            picture = _picture(path, trees[path])
            builder.image(picture.relative_to(root).as_posix(), *picture_size(picture))
            for each in trees[path].iter("object"):
                _read_object(path, each, builder, first)
        splits[split] = Split(root, builder.content())
    return splits


def _of_line(folder: Path, line: str) -> Path:
    """The file of a line: a name, which may have blanks, or a name and VOC's 1, 0 or -1."""
    whole = folder / f"{line.strip()}.xml"
    return whole if whole.is_file() else folder / f"{line.strip().rpartition(' ')[0].strip()}.xml"


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _has_zero(tree: Element) -> bool:
    boxes = tree.iter("bndbox")
    return any(box.findtext(end, "").strip() in ("0", "0.0") for box in boxes for end in ENDS)


def _picture(path: Path, tree: Element) -> Path:
    given = (tree.findtext("filename") or path.stem).replace("\\", "/")
    name = Path(given).name
    above = path.parents[1:3]
    folders = [path.parent, *(p / each for p in above for each in ("JPEGImages", "images"))]
    stems = [given, name, *(f"{path.stem}{suffix}" for suffix in PICTURES)]
    for folder in folders:
        for each in stems:
            if (folder / each).is_file():
                return folder / each
    raise DataError(f"{path}: its picture {name} is neither beside it nor in JPEGImages")


def _read_object(path: Path, each: Element, builder: CocoBuilder, first: int) -> None:
    box = each.find("bndbox")
    try:
        x1, y1, x2, y2 = (float(box.findtext(end)) for end in ENDS)
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path}: an object has no bndbox of {', '.join(ENDS)}") from None
    x1, y1 = x1 - first, y1 - first
    difficult = each.findtext("difficult", "0").strip() == "1"
    name = each.findtext("name", "").strip()
    # not counted in VOC's AP: COCO's way to say so
    builder.add(name, box=[x1, y1, x2 - x1, y2 - y1], iscrowd=int(difficult))


def write(splits: Mapping[str, Split], root: Path) -> list[str]:
    """Write splits; masks are left out, as these files have none.

    Returns:
        What the format cannot hold, in words.
    """
    masks, starts = 0, prefixes(splits)
    for split, each in splits.items():
        stems = []
        bring_pictures(each, root / "JPEGImages" / starts[split])
        for image, objects in objects_of(each.content):
            name = starts[split] + image["file_name"]
            stems.append(Path(name).with_suffix("").as_posix())
            path = root / "Annotations" / f"{stems[-1]}.xml"
            if path.exists():
                raise DataError(
                    f"two pictures of {split} are called {stems[-1]} but for the ending"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_tree({**image, "file_name": name}, objects))
            masks += sum("segmentation" in entry for entry, _ in objects)
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return [f"{masks} masks, which VOC's XML has not"] * bool(masks)


def _tree(image: Mapping, objects: list) -> bytes:
    tree = Element("annotation")
    SubElement(tree, "filename").text = image["file_name"]
    size = SubElement(tree, "size")
    for key in ("width", "height"):
        SubElement(size, key).text = str(image[key])
    SubElement(size, "depth").text = "3"
    for entry, name in objects:
        each = SubElement(tree, "object")
        SubElement(each, "name").text = name
        SubElement(each, "difficult").text = str(entry.get("iscrowd", 0))
        box = SubElement(each, "bndbox")
        x, y, w, h = entry["bbox"]
        for end, value in zip(ENDS, (x + 1, y + 1, x + w, y + h), strict=True):
            SubElement(box, end).text = f"{value:.12g}"
    ElementTree.indent(tree)
    return ElementTree.tostring(tree, encoding="utf-8", xml_declaration=True)
