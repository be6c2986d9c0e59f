"""`mmconvnext convert-data`: there and back, and what is refused."""

import json

import pytest

from mmconvnext.cli import convert_data, main
from mmconvnext.data.formats import FORMATS
from mmconvnext.data.layouts import read_layout
from tests.data.formats.test_round_trips import MASKLESS, NAMES, make, summary


@pytest.fixture
def coco(tmp_path):
    FORMATS["coco"].write(make(tmp_path / "made"), tmp_path / "coco")
    return tmp_path / "coco"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_command_knows_every_format():
    assert tuple(FORMATS) == convert_data.FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back(coco, tmp_path, capsys, name):
    out, back = tmp_path / "a" / "out", tmp_path / "back"
    back.mkdir()  # an empty folder is taken
    assert main(["convert-data", str(coco), str(out), "--to", name]) == 0
    printed = capsys.readouterr().out
    assert "train: 2 images, 4 objects\n" in printed
    assert printed.endswith(f"converted coco to {name}: {out}\n")
    assert ("not the same" in printed) == (name != "coco")
    assert f"the pictures in {out} are hard links" in printed
    assert ("2 objects of several parts" in printed) == (name == "yolo")
    assert main(["convert-data", str(out), str(back), "--to", "coco"]) == 0
    _, given = read_layout(coco)
    _, found = read_layout(back)
    facts = {"masks": name not in MASKLESS, "crowds": name != "yolo"}
    assert {s: summary(e, **facts) for s, e in found.items()} == {
        s: summary(e, **facts) for s, e in given.items()
    }
    assert not list(tmp_path.rglob(".*"))


def test_a_class_that_only_the_validation_has(coco, tmp_path):
    def rename(content):
        content["categories"][1]["name"] = "only here"

    edit(coco / "annotations" / "instances_val.json", rename)
    assert main(["convert-data", str(coco), str(tmp_path / "out"), "--to", "yolo"]) == 0
    _, found = read_layout(tmp_path / "out")
    names = [category["name"] for category in found["val"].content["categories"]]
    assert names == [*NAMES, "only here"]


def test_objects_of_no_image_are_counted(coco, tmp_path, capsys):
    train = coco / "annotations" / "instances_train.json"
    edit(train, lambda c: c["annotations"][0].update(image_id=99))
    assert main(["convert-data", str(coco), str(tmp_path / "out"), "--to", "cvat"]) == 0
    assert "1 objects of no image, which are left out" in capsys.readouterr().out


def test_what_is_refused_leaves_nothing(coco, tmp_path, capsys):
    train, out = coco / "annotations" / "instances_train.json", tmp_path / "out"

    def refused(says, to="yolo", data=coco):
        assert main(["convert-data", str(data), str(out), "--to", to]) == 1
        error = capsys.readouterr().err
        assert says in error
        assert "Traceback" not in error

    refused("there is no folder", data=tmp_path / "nowhere")
    content = train.read_text()
    edit(train, lambda c: c["annotations"][0].update(category_id=99))
    refused("an image or object is faulty (KeyError: 99)")
    train.write_text(content)
    edit(train, lambda c: c["images"][1].update(file_name="train 1.jpg"))
    for name in ("yolo", "voc", "labelme"):
        refused("train 1.jpg and train 1.png differ in their ending alone", to=name)
    refused("does not exist", to="cvat")
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("")
    refused("exists and is not an empty folder")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
