"""Folders as tools export them."""

import base64
import json
import shutil

import cv2
import numpy as np
import pytest

from mmconvnext.data.formats import FORMATS
from mmconvnext.data.layouts import read_layout
from mmconvnext.errors import DataError
from tests.data.formats.test_round_trips import make, summary


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((80, 100, 3), np.uint8))


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def made(tmp_path):
    return make(tmp_path / "made")


COCO_PLACES = {
    "COCO's own": ("annotations/instances_{split}2017.json", "{split}2017"),
    "short": ("annotations/instances_{split}.json", "{split}"),
    "images in one folder": ("{split}.json", "images"),
    "images in folders": ("annotations/{split}.json", "images/{split}"),
    "Roboflow": ("{split}/_annotations.coco.json", "{split}"),
    "all in one folder": ("{split}.json", "."),
    "a folder for each": ("{split}/annotations.json", "{split}/images"),
}


@pytest.mark.parametrize(("file", "folder"), COCO_PLACES.values(), ids=COCO_PLACES)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_coco_files_are_found_in_the_usual_places(tmp_path, made, file, folder, val):
    root = tmp_path / "data"
    for split, name in (("train", "train"), ("val", val)):
        put(root / file.format(split=name), made[split].content)
        for image in made[split].content["images"]:
            picture(root / folder.format(split=name) / image["file_name"])
    if "2017" in file and val == "valid":
        pytest.skip("COCO has no valid2017")
    name, read = read_layout(root)
    assert (name, list(read)) == ("coco", ["train", "val"])
    for split in read:
        assert read[split].content == made[split].content
        assert read[split].path == root / file.format(split=val if split == "val" else "train")
        assert (read[split].folder / made[split].content["images"][0]["file_name"]).is_file()


@pytest.mark.parametrize("file", ["annotations/instances_default.json", "result.json"])
def test_exports_of_cvat_and_label_studio_in_coco_form(tmp_path, made, file):
    root = tmp_path / "data"
    content = made["train"].content
    put(root / file, content)
    for image in content["images"]:
        picture(root / "images" / image["file_name"])
    assert read_layout(root)[1]["train"].content == content


@pytest.mark.parametrize(
    "place", ["/label-studio/data/upload/1/", "../../data/upload/", "C:\\data\\", "https://a.b/c/"]
)
def test_pictures_with_paths_of_another_machine_are_found_by_name(tmp_path, made, place):
    root, content = tmp_path / "data", made["train"].content
    names = [image["file_name"] for image in content["images"]]
    for image in content["images"]:
        picture(root / "images" / image["file_name"])
        image["file_name"] = place + image["file_name"]
    put(root / "result.json", content)
    split = read_layout(root)[1]["train"]
    assert [image["file_name"] for image in split.content["images"]] == names
    assert split.folder == root / "images"
    assert split.path is None  # it has to be written
    (note,) = split.notes
    assert "looked for by name" in note
    shutil.rmtree(root / "images")
    with pytest.raises(DataError, match="are in no folder of"):
        read_layout(root)


def test_roboflows_dummy_category_is_dropped(tmp_path, made):
    root = tmp_path / "data"
    content = made["train"].content
    for entry in content["categories"]:
        entry["supercategory"] = "animals"
    kept = list(content["categories"])
    for dummy in ("animals", kept[0]["name"]):
        content["categories"] = [{"id": 0, "name": dummy, "supercategory": "none"}, *kept]
        put(root / "train" / "_annotations.coco.json", content)
        for image in content["images"]:
            picture(root / "train" / image["file_name"])
        split = read_layout(root)[1]["train"]
        assert split.content["categories"] == kept
        assert split.path is None  # it has to be written
        assert split.notes == [f"left out: {dummy!r}, a category without objects"]


@pytest.mark.parametrize(
    ("train", "val", "path"),
    [
        ("images/train", "images/val", None),
        ("../train/images", "../valid/images", None),  # Roboflow
        ("train/images", "valid/images", "."),
        ("images/train", "images/val", "../datasets/mine"),  # of another machine
    ],
)
def test_the_folders_of_a_yaml_file(tmp_path, train, val, path):
    root = tmp_path / "data"
    for place in (train, val):
        place = place.removeprefix("../")
        picture(root / place / "a b.png")
        put(root / place.replace("images", "labels") / "a b.txt", "1 0.5 0.5 0.2 0.4\n\n")
    text = f"names: [cat, dog]\ntrain: {train}\nval: {val}\n" + (f"path: {path}\n" if path else "")
    put(root / "data.yaml", text)
    name, read = read_layout(root)
    assert (name, list(read)) == ("yolo", ["train", "val"])
    (entry,) = read["val"].content["annotations"]
    assert entry["bbox"] == pytest.approx([40, 24, 20, 32])
    assert [c["name"] for c in read["val"].content["categories"]] == ["cat", "dog"]


def voc(name="cat", box=(1, 1, 10, 20), extra=""):
    names = ("xmin", "ymin", "xmax", "ymax")
    ends = "".join(f"<{k}>{v}</{k}>" for k, v in zip(names, box, strict=True))
    inner = f"<name>{name}</name>{extra}<bndbox>{ends}</bndbox>"
    return f"<annotation><filename>a.png</filename><object>{inner}</object></annotation>"


@pytest.mark.parametrize(
    ("box", "expected"), [((1, 1, 10, 20), [0, 0, 10, 20]), ((0, 1, 10, 20), [0, 1, 10, 19])]
)
def test_voc_counts_from_one_unless_there_is_a_zero(tmp_path, box, expected):
    picture(tmp_path / "train" / "a.png")
    put(tmp_path / "train" / "a.xml", voc(box=box, extra="<difficult>1</difficult>"))
    (entry,) = read_layout(tmp_path)[1]["train"].content["annotations"]
    assert (entry["bbox"], entry["iscrowd"]) == (expected, 1)


def test_the_picture_nearest_to_an_annotation_file_is_its_own(tmp_path):
    for split in ("train", "valid"):
        put(tmp_path / split / "Annotations" / "a.xml", voc())
        picture(tmp_path / split / "JPEGImages" / "a.png")
    read = read_layout(tmp_path)[1]
    assert read["val"].content["images"][0]["file_name"] == "valid/JPEGImages/a.png"
    shutil.copytree(tmp_path / "valid" / "JPEGImages", tmp_path / "valid" / "images")
    with pytest.raises(DataError, match=r"valid/Annotations/a\.xml: its picture a\.png .* several"):
        read_layout(tmp_path)


def test_labelmes_circles_and_bitmaps(tmp_path):
    picture(tmp_path / "a.png")
    bitmap = base64.b64encode(cv2.imencode(".png", np.full((11, 21), 255, np.uint8))[1]).decode()
    shapes = [
        {"label": "cat", "shape_type": "circle", "points": [[50, 40], [60, 40]]},
        {"label": "dog", "shape_type": "mask", "points": [[5, 7], [25, 17]], "mask": bitmap},
        {"label": "dog", "shape_type": "rectangle", "points": [[30, 20], [10, 5]]},
    ]
    put(tmp_path / "a.json", {"imagePath": "..\\elsewhere\\a.png", "shapes": shapes})
    circle, mask, box = read_layout(tmp_path)[1]["train"].content["annotations"]
    assert circle["area"] == pytest.approx(np.pi * 100, rel=0.02)
    assert (mask["area"], mask["bbox"]) == (11 * 21, [5, 7, 21, 11])
    assert box["bbox"] == [10, 5, 20, 15]


def test_cvats_bitmaps_and_groups(tmp_path):
    facts = "label='cat' group_id='1'"
    mask = f"<mask {facts} left='5' top='7' width='4' height='2' rle='1,2,2,3,{10**15}'/>"
    box = f"<box {facts} xtl='20' ytl='30' xbr='30' ybr='50'/>"
    image = f"<image name='a.png' width='100' height='80'>{mask}{box}<tag label='cat'/></image>"
    put(tmp_path / "a.xml", f"<annotations>{image}</annotations>")
    (entry,) = read_layout(tmp_path)[1]["train"].content["annotations"]
    assert (entry["area"], entry["bbox"]) == (5 + 200, [6, 7, 24, 43])


def test_parts_of_an_object_of_any_kind_are_joined(tmp_path):
    picture(tmp_path / "a.png")
    parts = [
        {"shape_type": "rectangle", "points": [[10, 10], [20, 30]]},
        {"shape_type": "rectangle", "points": [[40, 10], [50, 30]]},
    ]
    mask = base64.b64encode(cv2.imencode(".png", np.full((10, 10), 255, np.uint8))[1]).decode()
    bitmap = {"shape_type": "mask", "points": [[60, 10], [69, 19]], "mask": mask}
    for shapes, area, box in (
        (parts, 400, [10, 10, 40, 20]),
        ([*parts, bitmap], 500, [10, 10, 60, 20]),
    ):
        shapes = [{**shape, "label": "cat", "group_id": 0} for shape in shapes]
        other = {**parts[0], "label": "dog", "group_id": 0}
        put(tmp_path / "a.json", {"imagePath": "a.png", "shapes": [*shapes, other]})
        one, two = read_layout(tmp_path)[1]["train"].content["annotations"]
        assert (one["area"], one["bbox"], two["bbox"]) == (area, box, [10, 10, 10, 20])


def test_a_folder_of_two_layouts_names_both(tmp_path, made):
    for name in ("yolo", "coco"):
        FORMATS[name].write(made, tmp_path)
    with pytest.raises(DataError, match=r"several layouts \(coco: annotations/.*; yolo: data\.yam"):
        read_layout(tmp_path)


def test_two_files_of_one_split_are_named(tmp_path, made):
    FORMATS["coco"].write(made, tmp_path)
    shutil.copy(tmp_path / "annotations" / "instances_train.json", tmp_path / "train.json")
    with pytest.raises(DataError, match=r"instances_train\.json and .*/train\.json are both taken"):
        read_layout(tmp_path)


def test_a_folder_without_annotations_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"of a known layout: it is empty; looked for"):
        read_layout(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"among its 1 files, 1 of them pictures; looked for"):
        read_layout(tmp_path)


def label_studio(kind="rectanglelabels", rotation=0):
    value = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": rotation, kind: ["cat"]}
    region = {"id": "r", "type": kind, "value": value}
    return json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [region]}]}])


def labelme(kind):
    shape = {"label": "cat", "shape_type": kind, "points": [[1, 1], [9, 9]]}
    return json.dumps({"shapes": [shape], "imagePath": "a.png"})


BOMB = '<!DOCTYPE a [<!ENTITY b "bb">]>' + voc()
POINTS = "<annotations><image name='a' width='9' height='9'><points/></image></annotations>"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.xml": BOMB}, "has a document type"),
        ({"a.xml": "<annotation>"}, "is not XML"),
        ({"a.xml": voc()}, "its picture a.png is not below"),
        ({"a.xml": voc(box="abcd"), "a.png": ""}, "a.png is no picture"),
        ({"data.yaml": "names: [a\n"}, "is not YAML"),
        ({"data.yaml": "names: [a]\ntrain: none\n"}, "is no folder beside it"),
        ({"data.yaml": "names: [a]\ntrain: [x, y]\n"}, "give one folder"),
        ({"a.json": '{"shapes": ['}, "is not JSON"),
        ({"a.json": '{"shapes": [], "imagePath": "../../x.png"}'}, "x.png is not below"),
        ({"tasks.json": '[{"data": '}, "is not JSON"),
        ({"a.json": '{"images": [], "annotations": [], "categories": ['}, "a.json is not JSON"),
        ({"a.xml": "<annotations><image name='a'/></annotations>"}, "not cvat's, though they look"),
        ({"a.xml": POINTS}, "a points on a is neither box, polygon nor mask"),
        ({"a.xml": "<annotations/>"}, r"annotations \(a.xml\) name no pictures"),
        ({"data.yaml": "names: [a]\n"}, r"annotations \(data.yaml\) name no pictures"),
        ({"a.json": '{"images": [{}], "annotations": [], "categories": []}'}, "has no 'id'"),
        ({"a.json": "[1, 2]", "b.json": '{"shapes": 3}'}, "b.json: its picture b is not below"),
        ({"train/a.xml": voc(), "training/a.xml": voc()}, "are both train: remove one"),
        ({"a.json": label_studio("brushlabels"), "a.png": None}, "type brushlabels is no polygon"),
        ({"a.json": label_studio(rotation=9.5), "a.png": None}, "a turned box on a.png: make it a"),
        ({"a.json": labelme("line"), "a.png": None}, "a shape of type 'line' has no area; use"),
    ],
)
def test_what_is_broken_ends_in_one_line(tmp_path, files, said):
    for name, content in files.items():
        picture(tmp_path / name) if content is None else put(tmp_path / name, content)
    with pytest.raises(DataError, match=said) as caught:
        read_layout(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_lines_of_yolo_that_are_none(tmp_path):
    picture(tmp_path / "images" / "a.png")
    put(tmp_path / "data.yaml", "names: [a]\ntrain: images\n")
    for line in ("1 0.5 0.5 0.1 0.1", "0 x 0.5 0.1 0.1", "0 0.5 0.5 0.1", "-1 0 0 1 1"):
        put(tmp_path / "labels" / "a.txt", line)
        with pytest.raises(DataError, match=r"labels/a\.txt:1: "):
            read_layout(tmp_path)


def test_summaries_tell_differences(made):
    assert summary(made["train"], True, True) != summary(made["val"], True, True)


def test_a_class_called_shapes_does_not_make_a_labelme_file(tmp_path, made):
    made["train"].content["categories"][0].update(name="shapes", supercategory="shapes")
    FORMATS["coco"].write({"train": made["train"]}, tmp_path / "data")
    name, read = read_layout(tmp_path / "data")
    assert (name, read["train"].content) == ("coco", made["train"].content)
