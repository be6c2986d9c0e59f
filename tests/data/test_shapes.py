import hashlib
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mmconvnext.data import CLASSES, ShapesError, generate_shapes
from mmconvnext.data import shapes as shapes_module
from mmconvnext.data.masks import outlines
from mmconvnext.data.shapes import draw_scene

SMALL = {"num_train": 6, "num_val": 4, "image_size": 96}
EXPECTED = {
    *(f"annotations/instances_{split}.json" for split in ("train", "val")),
    *(f"train/{index:06d}.png" for index in range(6)),
    *(f"val/{index:06d}.png" for index in range(4)),
}


def digests(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The data set in its default size."""
    root = tmp_path_factory.mktemp("shapes")
    return root, generate_shapes(root)


@pytest.fixture(scope="module")
def val(shapes):
    return COCO(str(shapes[1]["val"]))


def test_images_depend_on_the_seed_and_not_on_their_number(tmp_path):
    changes = {"one": {}, "same": {}, "seed": {"seed": 1}, "large": {"num_train": 9}}
    for name, change in changes.items():
        generate_shapes(tmp_path / name, **{**SMALL, **change})
    one, same, seed, large = (digests(tmp_path / name) for name in changes)
    assert one == same
    images = {name: digest for name, digest in one.items() if name.endswith("png")}
    assert not {*images.values()} & {*seed.values()}
    assert images.items() <= large.items()


def test_train_and_val_share_no_image(shapes):
    names = digests(shapes[0])
    train, val = ({d for n, d in names.items() if n.startswith(s + "/")} for s in ("train", "val"))
    assert (len(train), len(val)) == (400, 80)
    assert not train & val


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_valid_coco(shapes, split):
    coco = COCO(str(shapes[1][split]))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for ann in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(ann)
        assert ann["area"] == mask.sum() > 0
        rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        x, y, width, height = ann["bbox"]
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
        assert isinstance(ann["segmentation"], dict) == bool(ann["iscrowd"])


def test_polygons_follow_what_was_drawn(shapes):
    coco = COCO(str(shapes[1]["val"]))
    for image_id, image in coco.imgs.items():
        scene = draw_scene("val", image_id - 1, 160, seed=0)
        on_disk = cv2.imread(str(shapes[0] / "val" / image["file_name"]))
        assert np.array_equal(scene.image, on_disk)
        anns = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(anns) == len(scene.objects)
        for ann, (category, mask, crowd) in zip(anns, scene.objects, strict=True):
            assert (ann["category_id"] - 1, ann["iscrowd"]) == (category, crowd)
            drawn = coco.annToMask(ann).astype(bool)
            holes = drawn & ~mask
            assert (drawn & mask).sum() >= 0.97 * mask.sum()
            # What is more than the object is a hole in it, covered by a later shape, or its edge.
            others = [m for _, m, _ in scene.objects if m is not mask]
            edge = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
            assert not (holes & ~edge & ~np.any(others, axis=0)).any()


def test_all_sizes_classes_crowds_empty_images_and_occlusion_are_there(val):
    anns = val.loadAnns(val.getAnnIds(iscrowd=False))
    areas = np.array([a["area"] for a in anns])
    small, medium, large = np.histogram(areas, [0, 32**2, 96**2, np.inf])[0]
    assert min(small, medium) >= 20
    assert large >= 5
    counts = np.bincount([a["category_id"] for a in anns], minlength=4)[1:]
    assert counts.min() > 0.2 * counts.sum()
    assert len(val.getAnnIds(iscrowd=True)) >= 2
    assert sum(not val.getAnnIds(i) for i in val.imgs) >= 2
    assert sum(len(a["segmentation"]) > 1 for a in anns) >= 5, "objects divided by others"


def test_objects_differ_from_the_background_by_more_than_noise(val, shapes):
    for ann in val.loadAnns(val.getAnnIds(iscrowd=False))[:100]:
        image = cv2.imread(str(shapes[0] / "val" / val.imgs[ann["image_id"]]["file_name"]))
        mask = val.annToMask(ann).astype(bool)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask
        assert np.abs(image[mask].mean(0) - image[around].mean(0)).max() > 5


@pytest.mark.parametrize("image_size", [64, 320])
def test_other_sizes_scale_the_objects(tmp_path, image_size):
    files = generate_shapes(tmp_path, num_train=12, num_val=1, image_size=image_size)
    coco = COCO(str(files["train"]))
    areas = [a["area"] for a in coco.loadAnns(coco.getAnnIds())]
    assert 0.02 < np.median(areas) / image_size**2 < 0.2
    assert {i["width"] for i in coco.imgs.values()} == {image_size}


def test_a_complete_set_is_found_again_and_one_that_lost_an_image_written_again(tmp_path):
    generate_shapes(tmp_path, **SMALL)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    generate_shapes(tmp_path, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == times
    complete = digests(tmp_path)
    (tmp_path / "val" / "000001.png").unlink()
    generate_shapes(tmp_path, **SMALL)
    assert digests(tmp_path) == complete


def fail_at(monkeypatch, split: str, index: int) -> None:
    def draw(*args):
        if args[:2] == (split, index):
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr(shapes_module, "draw_scene", draw)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("earlier", [None, {"seed": 5}, {"num_train": 9}])
def test_an_interrupted_run_changes_nothing(tmp_path, monkeypatch, split, earlier):
    if earlier:
        generate_shapes(tmp_path, **{**SMALL, **earlier})
    before = digests(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, split, 2)
        with pytest.raises(KeyboardInterrupt):
            generate_shapes(tmp_path, **SMALL, overwrite=bool(earlier))
    assert digests(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    generate_shapes(tmp_path, **SMALL, overwrite=True)
    assert digests(tmp_path).keys() == EXPECTED


def test_what_is_overwritten_and_what_is_kept(tmp_path):
    generate_shapes(tmp_path, **{**SMALL, "num_train": 9})
    (tmp_path / "notes.txt").write_bytes(b"mine")
    before = digests(tmp_path)
    with pytest.raises(ShapesError, match=r"other parameters.*'seed': 0.*--overwrite"):
        generate_shapes(tmp_path, **SMALL, seed=3)
    assert digests(tmp_path) == before
    files = generate_shapes(tmp_path, **SMALL, seed=3, overwrite=True)
    assert json.loads(files["val"].read_text())["info"]["seed"] == 3
    assert digests(tmp_path).keys() == {*EXPECTED, "notes.txt"}  # none of the larger set
    (tmp_path / "train" / "mine.png").write_bytes(b"mine")
    generate_shapes(tmp_path, **SMALL, seed=3)  # complete, whatever else is there
    with pytest.raises(ShapesError, match=r"another data set: train/mine\.png \(1 files"):
        generate_shapes(tmp_path, **{**SMALL, "num_train": 2}, overwrite=True)
    assert digests(tmp_path).keys() == {*EXPECTED, "notes.txt", "train/mine.png"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("annotations/instances_train.json", '{"images": [], "info": {"description": "mine"}}'),
        ("annotations/instances_val.json", '{"info": {"description": "mine"}, "images": []}'),
        ("annotations/instances_train.json", '{"images": [], "annotations": []}'),
        ("annotations/instances_train.json", '{"info": ["mine"]}'),
        ("annotations/instances_val.json", '{"images": [ not whole'),
        ("train/000005.png", "mine"),
        ("val/000000.png", "mine"),
        ("train/deeper/mine.png", "mine"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_data_set_is_never_written_over(tmp_path, name, content, overwrite):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ShapesError, match=f"has another data set: {name}"):
        generate_shapes(tmp_path, **SMALL, overwrite=overwrite)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_text() == content


def test_a_folder_of_other_files_is_used_only_when_asked(tmp_path):
    path = tmp_path / "holiday.png"
    path.write_bytes(b"mine")
    with pytest.raises(ShapesError, match=r"has other files: holiday\.png.*--overwrite"):
        generate_shapes(tmp_path, **SMALL)
    generate_shapes(tmp_path, **SMALL, overwrite=True)
    assert path.read_bytes() == b"mine"
    assert digests(tmp_path).keys() == {*EXPECTED, "holiday.png"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShapesError, match=r"out_dir='.*file' cannot be written: .*File exists"):
        generate_shapes(tmp_path / "file", **SMALL)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), parts=st.integers(1, 6))
def test_polygons_give_back_any_mask_but_its_holes(seed, parts):
    rng = np.random.default_rng(seed)
    mask = np.zeros((48, 56), np.uint8)
    for x, y, width, height in rng.integers(0, 40, (parts, 4)):
        mask[y : y + height // 2 + 1, x : x + width // 2 + 1] ^= 1
    if not mask.any():
        return
    outside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    # What the border's zeros do not reach over edges alone is a hole or the mask.
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    filled = outside[1:-1, 1:-1] != 2
    polygons = rle.frPyObjects(outlines(mask), *mask.shape)
    assert np.array_equal(rle.decode(rle.merge(polygons)).astype(bool), filled)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_train", 0), ("num_val", -1), ("num_val", True), ("image_size", 32)]
    + [("seed", -1), ("seed", 1.5)],
)
def test_wrong_arguments_are_named(tmp_path, argument, value):
    with pytest.raises(ShapesError, match=f"{argument}={value}"):
        generate_shapes(tmp_path, **{argument: value})
