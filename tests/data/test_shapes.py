import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmconvnext.data import CLASSES, ShapesError, generate_shapes
from mmconvnext.data.shapes import draw_scene

SMALL = {"num_train": 6, "num_val": 4, "image_size": 96}


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


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path):
    generate_shapes(tmp_path / "a", **SMALL)
    generate_shapes(tmp_path / "b", **SMALL)
    generate_shapes(tmp_path / "c", **SMALL, seed=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    images = [{d for n, d in digests(tmp_path / f).items() if n.endswith("png")} for f in "ac"]
    assert not images[0] & images[1]


def test_a_larger_set_contains_the_smaller_one(tmp_path):
    generate_shapes(tmp_path / "small", **SMALL)
    generate_shapes(tmp_path / "large", **{**SMALL, "num_train": 9})
    small, large = digests(tmp_path / "small"), digests(tmp_path / "large")
    for name in small:
        if name.endswith("png"):
            assert small[name] == large[name]


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
    assert (areas < 32**2).sum() >= 20
    assert ((areas >= 32**2) & (areas < 96**2)).sum() >= 20
    assert (areas >= 96**2).sum() >= 5
    counts = np.bincount([a["category_id"] for a in anns], minlength=4)[1:]
    assert counts.min() > 0.2 * counts.sum()
    assert len(val.getAnnIds(iscrowd=True)) >= 2
    assert sum(not val.getAnnIds(i) for i in val.imgs) >= 2
    assert sum(len(a["segmentation"]) > 1 for a in anns) >= 5, "objects cut in pieces by others"


def test_objects_differ_from_the_background_by_more_than_noise(val, shapes):
    for ann in val.loadAnns(val.getAnnIds(iscrowd=False))[:100]:
        image = cv2.imread(str(shapes[0] / "val" / val.imgs[ann["image_id"]]["file_name"]))
        mask = val.annToMask(ann).astype(np.uint8)
        around = cv2.dilate(mask, np.ones((9, 9))).astype(bool) & ~mask.astype(bool)
        inside, outside = (image[m].mean(0) for m in (mask.astype(bool), around))
        assert np.abs(inside - outside).max() > 5


@pytest.mark.parametrize("image_size", [64, 320])
def test_other_sizes_scale_the_objects(tmp_path, image_size):
    files = generate_shapes(tmp_path, num_train=12, num_val=1, image_size=image_size)
    coco = COCO(str(files["train"]))
    areas = [a["area"] for a in coco.loadAnns(coco.getAnnIds())]
    assert 0.02 < np.median(areas) / image_size**2 < 0.2
    assert {i["width"] for i in coco.imgs.values()} == {image_size}


def test_a_complete_set_is_found_again(tmp_path):
    generate_shapes(tmp_path, **SMALL)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    generate_shapes(tmp_path, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_interrupted_set_is_written_again(tmp_path):
    files = generate_shapes(tmp_path, **SMALL)
    complete = digests(tmp_path)
    files["val"].unlink()
    (tmp_path / "val" / "000000.png").write_bytes(b"half")
    generate_shapes(tmp_path, **SMALL)
    assert digests(tmp_path) == complete


def test_other_parameters_are_not_written_over_unless_asked(tmp_path):
    generate_shapes(tmp_path, **SMALL)
    with pytest.raises(ShapesError, match=r"other parameters.*'seed': 0"):
        generate_shapes(tmp_path, **SMALL, seed=3)
    files = generate_shapes(tmp_path, **SMALL, seed=3, overwrite=True)
    assert json.loads(files["val"].read_text())["info"]["seed"] == 3


def test_another_data_set_is_never_written_over(tmp_path):
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir()
    path.write_text('{"images": [], "info": {"description": "mine"}}')
    with pytest.raises(ShapesError, match="holds another data set"):
        generate_shapes(tmp_path, **SMALL, overwrite=True)
    assert "mine" in path.read_text()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_train", 0), ("num_val", -1), ("image_size", 32), ("seed", -1), ("seed", 1.5)],
)
def test_wrong_arguments_are_named(tmp_path, argument, value):
    with pytest.raises(ShapesError, match=f"{argument}={value}"):
        generate_shapes(tmp_path, **{argument: value})
