"""ImageNet's layouts: which are read, and what is said of others."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mmconvnext.data.imagenet import GROUND_TRUTH, Pictures, find_samples
from mmconvnext.errors import DataError

WNIDS = ["n00000001", "n00000002", "n00000003"]
LABELS = [2, 0, 1, 2]


def write(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name, format="JPEG")


@pytest.fixture
def flat(tmp_path):
    write(tmp_path / "val", [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 5)])
    return tmp_path


def labels(root):
    return [sample.label for sample in find_samples(root, WNIDS)]


@pytest.mark.parametrize("place", ["val", "."])
def test_folders_of_classes(tmp_path, place):
    write(tmp_path / place / WNIDS[2], ["a.JPEG", "b.jpg"])
    write(tmp_path / place / WNIDS[0], ["c.JPEG"])
    assert labels(tmp_path) == [0, 2, 2]


@pytest.mark.parametrize("name", ["val.txt", "meta/val.txt"])
def test_a_list_of_names(flat, name):
    (flat / "meta").mkdir()
    names = [f"ILSVRC2012_val_{i:08}.JPEG {label}" for i, label in enumerate(LABELS, 1)]
    (flat / name).write_text("\n".join(reversed(names)))
    assert labels(flat) == LABELS


def devkit(folder, lines):
    """The devkit's numbers have an order of their own, and go on for groups of classes."""
    folder.mkdir(parents=True)
    types = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O")]
    numbered = [(1, WNIDS[1], "b"), (2, WNIDS[2], "c"), (3, WNIDS[0], "a"), (4, "n00000009", "x")]
    savemat(folder / "meta.mat", {"synsets": np.array(numbered, types)})
    (folder / GROUND_TRUTH).write_text("\n".join(map(str, lines)))


@pytest.mark.parametrize("place", [".devkit", "data", "ILSVRC2012_devkit_t12/data"])
def test_the_list_of_the_devkit(flat, place):
    devkit(flat / place, [2, 3, 1, 2])
    if place == ".devkit":  # not where it is looked for
        with pytest.raises(DataError, match="nothing says their classes"):
            labels(flat)
    else:
        assert labels(flat) == LABELS


def test_a_list_of_the_devkit_that_does_not_fit(flat):
    devkit(flat / "data", [1, 2])
    list_ = flat / "data" / GROUND_TRUTH
    with pytest.raises(DataError, match="has 2 lines, for 4 pictures"):
        labels(flat)
    list_.write_text("1 1 1 4")
    with pytest.raises(DataError, match="has '4', which is no class of meta"):
        labels(flat)
    (flat / "data" / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"meta\.mat, which says what .* ILSVRC2012_devkit_t12"):
        labels(flat)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 3", r"val\.txt, line 1: .* class of 0-2"),
        ("val.txt", "no label", r"line 1: 'no label'"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1", r"lacks 3 pictures .* ILSVRC2012_val"),
        ("LOC_val_solution.csv", "", r"LOC_val_solution\.csv is no list that is read"),
    ],
)
def test_lists_that_are_refused(flat, name, text, says):
    (flat / name).write_text(text)
    with pytest.raises(DataError, match=says):
        labels(flat)


def test_a_list_of_more_pictures_than_there_are_is_refused(flat):
    names = [*(path.name for path in flat.rglob("*.JPEG")), "gone.JPEG"]
    (flat / "val.txt").write_text("".join(f"{name} 1\n" for name in names))
    with pytest.raises(DataError, match=r"val\.txt has 5 pictures, .* 4"):
        labels(flat)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent is no folder; give one of the layout val/<wnid>"):
        labels(tmp_path / "absent")
    with pytest.raises(DataError, match="has no pictures, but nothing"):
        labels(tmp_path)
    (tmp_path / "n00000001").mkdir()
    with pytest.raises(DataError, match="have no pictures"):
        labels(tmp_path)
    (tmp_path / "n99999999").mkdir()
    with pytest.raises(DataError, match=r"1 classes that are none .* n99999999"):
        labels(tmp_path)


def test_pictures_that_cannot_be_read_are_named(flat):
    from torchvision.transforms.functional import to_tensor

    (flat / "val.txt").write_text("\n".join(f"ILSVRC2012_val_{i:08}.JPEG 1" for i in range(1, 5)))
    samples = find_samples(flat, WNIDS)
    whole = samples[0].path.read_bytes()
    samples[0].path.write_bytes(whole[: len(whole) // 2])
    samples[1].path.write_text("text")
    faults = [fault for _, _, fault in Pictures(samples, to_tensor)]
    assert [bool(fault) for fault in faults] == [True, True, False, False]
    assert str(samples[0].path) in faults[0]
