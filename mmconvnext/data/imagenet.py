"""ImageNet's validation pictures with their classes, from the layouts that they are kept in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mmconvnext.data.pictures import UNREADABLE
from mmconvnext.errors import DataError

WNID = re.compile(r"n\d{8}")
SUFFIXES = {".jpeg", ".jpg", ".png"}
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = ("", "data", "devkit/data", "ILSVRC2012_devkit_t12/data")
LISTS = ("val.txt", "meta/val.txt")
# Other lists of the same pictures, by the names that they are known by.
OTHER_LISTS = ("LOC_val_solution.csv", "meta.bin", "synset_labels.txt", "val_map.txt")
LAYOUTS = (
    "val/<wnid>/*.JPEG; val/*.JPEG with val.txt (lines of name and class, 0-999 in the order of "
    f"WordNet ids); or val/*.JPEG with the devkit's {GROUND_TRUTH} and meta.mat"
)


class Sample(NamedTuple):
    """A picture and the number of its class among the WordNet ids that were given."""

    path: Path
    label: int


def find_samples(root: Path, wnids: Sequence[str]) -> list[Sample]:
    """Find the pictures of a folder that has ImageNet's layout, or is its ``val``.

    ``wnids`` are WordNet ids of the classes, in the order of their numbers.
    """
    folder = root / "val" if (root / "val").is_dir() else root
    if not folder.is_dir():
        raise DataError(f"--data {root} is no folder; give one of the layout {LAYOUTS}")
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    classes = sorted(f for f in folder.iterdir() if f.is_dir() and WNID.fullmatch(f.name))
    if unknown := [f.name for f in classes if f.name not in numbers]:
        raise DataError(
            f"{folder} has {len(unknown)} classes that are none of ImageNet-1K's {len(wnids)}, the "
            f"first {unknown[0]}; remove their folders"
        )
    if classes:
        samples = [Sample(path, numbers[f.name]) for f in classes for path in _pictures(f)]
        if not samples:
            raise DataError(f"the folders of classes in {folder} have no pictures")
        return samples
    pictures = _pictures(folder)
    if not pictures:
        found = ", ".join(sorted(f.name for f in folder.iterdir())[:4]) or "nothing"
        raise DataError(f"{folder} has no pictures, but {found}; it must have {LAYOUTS}")
    for name in LISTS:
        if (root / name).is_file():
            return _of_list(root / name, pictures, len(wnids))
    for name in DEVKIT:
        if (root / name / GROUND_TRUTH).is_file():
            return _of_devkit(root / name / GROUND_TRUTH, pictures, numbers)
    other = next((name for name in OTHER_LISTS if (root / name).is_file()), None)
    reason = f"{root / other} is no list that is read" if other else "nothing says their classes"
    raise DataError(f"{folder} has {len(pictures)} pictures, and {reason}; it must have {LAYOUTS}")


def _pictures(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)


def _of_list(file: Path, pictures: Sequence[Path], num_classes: int) -> list[Sample]:
    labels = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or int(label) >= num_classes:
            raise DataError(
                f"{file}, line {number}: {line!r} is no name and class of 0-{num_classes - 1}"
            )
        labels[Path(name).name] = int(label)
    if lacking := [path.name for path in pictures if path.name not in labels]:
        raise DataError(f"{file} lacks {len(lacking)} pictures of the folder, as {lacking[0]}")
    if len(labels) > len(pictures):
        raise DataError(f"{file} has {len(labels)} pictures, {pictures[0].parent} {len(pictures)}")
    return [Sample(path, labels[path.name]) for path in pictures]


def _of_devkit(file: Path, pictures: Sequence[Path], numbers: Mapping[str, int]) -> list[Sample]:
    """By the n-th line for the n-th picture; its numbers are those of the devkit's synsets."""
    from scipy.io import loadmat

    meta = file.with_name("meta.mat")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {str(int(each["ILSVRC2012_ID"])): str(each["WNID"]) for each in synsets}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{meta}, which says what the numbers of {file.name} mean, cannot be read: {error}; "
            "take it from ILSVRC2012_devkit_t12.tar.gz"
        ) from error
    lines = file.read_text("utf-8").split()
    if len(lines) != len(pictures):
        raise DataError(f"{file} has {len(lines)} lines, for {len(pictures)} pictures")
    if wrong := [line for line in lines if wnids.get(line) not in numbers]:
        raise DataError(f"{file} has {wrong[0]!r}, which is no class of {meta.name}")
    return [Sample(p, numbers[wnids[line]]) for p, line in zip(pictures, lines, strict=True)]


class Pictures(Dataset):
    """Transformed pictures with their classes; of one that cannot be read, why."""

    def __init__(self, samples: Sequence[Sample], transform: Callable[[Image.Image], Tensor]):
        self.samples, self.transform = samples, transform
        # stands for those that cannot be read, so that batches can be made of all
        self.blank = transform(Image.new("RGB", (32, 32)))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        """One picture (3, H, W), its class, and why it cannot be read, or nothing."""
        path, label = self.samples[index]
        try:
            with Image.open(path) as image:
                return self.transform(image.convert("RGB")), label, ""
        except UNREADABLE as error:
            return self.blank, label, f"{path}: {error}"
