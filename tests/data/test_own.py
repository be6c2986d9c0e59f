import json
from collections import Counter

import pytest

from mmconvnext.data.formats.common import Labelled, Shape, Split, make_splits
from mmconvnext.data.own import (
    choose_validation,
    common_classes,
    make_own,
    same_pictures,
    with_ids_from_one,
)
from mmconvnext.errors import DataError


def split_of(folder, names=("cat", "dog"), images=20, polygons=True, **files) -> Split:
    """Pictures whose files have different bytes, an object on each, classes one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    pictures = []
    for index in range(images):
        name = f"{index}.jpg"
        (folder / name).write_bytes(files.get(name.removesuffix(".jpg"), b"%03d" % index))
        label = names[index % len(names)]
        shape = Shape(label, [square] if polygons else (), [10, 10, 20, 20])
        pictures.append(Labelled("train", name, (100, 50), [shape]))
    return make_splits(pictures, folder, names)["train"]


def names_of(path):
    content = json.loads(path.read_text())
    return {image["file_name"] for image in content["images"]}


def test_a_validation_part_is_taken_from_the_training_the_same_in_every_run(tmp_path):
    split = split_of(tmp_path / "pictures", images=40)
    own = make_own({"train": split}, tmp_path / "a")
    train, val = names_of(own.files["train"]), names_of(own.files["val"])
    assert not train & val
    assert (len(val), len(train | val)) == (6, 40)
    assert {int(name.split(".")[0]) % 2 for name in val} == {0, 1}  # both classes
    assert own.files["test"] == own.files["val"]
    assert (own.classes, own.masks) == (("cat", "dog"), True)
    again = make_own({"train": split}, tmp_path / "b")
    assert again.files["val"].read_bytes() == own.files["val"].read_bytes()
    assert "6 of the 40 training images" in own.notes[0]
    rows = {row[0]: row[1:] for row in own.rows}
    assert rows["images"] == ["34", "6", "6"]
    assert rows["cat"] == rows["dog"] == ["17", "3", "3"]
    assert rows["picture sizes"] == ["100x50"] * 3
    # other data does not overwrite what a config may use
    other = make_own({"train": split_of(tmp_path / "other", images=9)}, tmp_path / "a")
    assert other.files["train"] != own.files["train"]
    assert names_of(own.files["train"]) == train


def test_copies_of_a_picture_stay_on_one_side(tmp_path):
    copies = {str(index): b"same" for index in range(12)}
    split = split_of(tmp_path, ("cat",), images=24, **copies)
    own = make_own({"train": split}, tmp_path / "out")
    of_copies = {f"{index}.jpg" for index in range(12)}
    train, val = names_of(own.files["train"]), names_of(own.files["val"])
    assert of_copies <= train or of_copies <= val
    assert min(len(train), len(val)) > 0


def test_what_is_said_of_given_splits(tmp_path):
    val = split_of(tmp_path / "val", images=1)  # a cat, whose picture is in the training, too
    own = make_own({"train": split_of(tmp_path / "train"), "val": val}, tmp_path / "out")
    assert any("1 pictures are in the training and in val" in note for note in own.notes)
    assert own.notes[-1] == "val has no object of 'dog', which the mean AP leaves out"
    names = [f"class {index}" for index in range(50)]
    few, all_ = split_of(tmp_path / "few", names, images=2), split_of(tmp_path / "all", names)
    own = make_own({"train": few, "val": all_}, tmp_path / "out")
    assert "and 43 others, which cannot be learned" in own.notes[-2]
    assert ["10 other classes", "0", "0", "0"] in own.rows


def test_two_pictures_are_enough_and_one_is_not(tmp_path):
    own = make_own({"train": split_of(tmp_path / "a", images=2)}, tmp_path / "out")
    assert len(names_of(own.files["train"])) == len(names_of(own.files["val"])) == 1
    copies = split_of(tmp_path / "c", images=2, **{"0": b"same", "1": b"same"})
    for few in (split_of(tmp_path / "b", images=1), copies):
        with pytest.raises(DataError, match="one picture"):
            make_own({"train": few}, tmp_path / "out")


def test_coco_files_are_used_as_they_are(tmp_path):
    splits = {name: split_of(tmp_path / name) for name in ("val", "train")}
    for name, split in splits.items():
        split.path = tmp_path / f"{name}.json"
        split.path.write_text(json.dumps(split.content))
    own = make_own(splits, tmp_path / "out")
    assert own.files == {name: tmp_path / f"{name}.json" for name in ("train", "val")} | {
        "test": tmp_path / "val.json"
    }
    assert not (tmp_path / "out").exists()


def test_classes_have_one_order_and_boxes_alone_are_seen(tmp_path):
    train = split_of(tmp_path / "a", ("dog", "große Katze"), polygons=False)
    val = split_of(tmp_path / "b", ("猫", "große Katze", "dog"), polygons=False)
    own = make_own({"val": val, "train": train}, tmp_path / "out")
    assert own.classes == ("dog", "große Katze", "猫")
    assert own.notes[0] == "train has no class '猫', which others have"
    assert not own.masks
    train.content["categories"].reverse()
    assert common_classes({"train": train})[0] == ("dog", "große Katze")
    other = split_of(tmp_path / "c", ("Große_Katze",))
    with pytest.raises(DataError, match="'große Katze' and 'Große_Katze' are two classes"):
        common_classes({"train": train, "val": other})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": []}, "no objects"),
        ({"images": []}, "no images"),
        ({"categories": []}, "no classes"),
    ],
)
def test_what_has_nothing_to_train_on_is_refused(tmp_path, change, says):
    split = split_of(tmp_path / "a")
    split.content |= change
    with pytest.raises(DataError, match=says):
        make_own({"train": split}, tmp_path / "out")


def test_a_test_split_without_objects_is_left_out_and_one_alone_is_enough(tmp_path):
    test = split_of(tmp_path / "test")
    own = make_own({"test": test}, tmp_path / "out")
    assert own.files["val"] == own.files["test"]
    test.content["annotations"] = []
    own = make_own({"train": split_of(tmp_path / "a"), "test": test}, tmp_path / "out")
    assert own.notes[0] == "the test split has no objects and is left out"
    assert own.files["test"] == own.files["val"]


def test_the_table_takes_files_with_faults_as_they_are(tmp_path):
    split = split_of(tmp_path / "a", images=4)
    objects = split.content["annotations"]
    objects[0].update(area=None, bbox=[0, 0, 50, 50])
    objects[1].update(area="x", bbox=["0"], image_id=[7])
    objects[2].update(iscrowd=1, category_id={})
    for image in split.content["images"]:
        image["width"] = None
    rows = {row[0]: row[1] for row in make_own({"val": split}, tmp_path / "out").rows}
    assert rows["picture sizes"] == "unknown"
    kinds = ("small", "medium", "crowds", "images without objects", "cat", "dog")
    assert [rows[kind] for kind in kinds] == ["2", "1", "1", "1", "1", "2"]


def test_ids_from_zero_are_moved_and_faults_stay():
    content = {
        "images": [{"id": 0}, {"id": 1}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 1},
            {"id": 1, "image_id": 7, "category_id": 0},
        ],
    }
    moved = with_ids_from_one(content)
    assert [image["id"] for image in moved["images"]] == [1, 2]
    assert moved["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2},
        {"id": 2, "image_id": 8, "category_id": 1},  # still of no image
    ]
    assert with_ids_from_one(moved) is moved
    content["images"][1]["id"] = "a"  # as they are, for the checks to renumber
    assert with_ids_from_one(content)["images"] == content["images"]


@pytest.mark.parametrize("count", [2, 3, 7, 50, 400])
def test_each_class_has_its_share_of_the_validation(count):
    labels = [
        {f"c{index % 4}"} | ({"rare"} if index % 50 == 0 else set()) for index in range(count)
    ]
    chosen = choose_validation(labels, [1] * count)
    assert 1 <= len(chosen) <= max(1, round(0.2 * count))
    assert chosen == choose_validation(labels, [1] * count)
    if count == 400:
        in_val = Counter(name for index in chosen for name in labels[index])
        for index in range(4):
            assert in_val[f"c{index}"] == pytest.approx(15, abs=2)
        assert in_val["rare"] == 1


def test_the_validation_has_an_object_where_there_are_two():
    labels = [set() for _ in range(40)] + [{"cat"}, {"cat"}]
    chosen = choose_validation(labels, [1] * 42)
    assert len(chosen & {40, 41}) == 1


def test_many_rare_classes_leave_the_validation_its_share():
    labels = [{"common", f"rare {index // 2}"} for index in range(40)]
    chosen = choose_validation(labels, [1] * 40)
    assert len(chosen) == 6
    trained = {name for index in range(40) if index not in chosen for name in labels[index]}
    assert len(trained) == 21  # all classes


def test_same_pictures_are_found_by_their_bytes(tmp_path):
    for name, content in {"a": b"1", "b": b"2", "c": b"1", "d": b"long" * 9000}.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in ("a", "b", "none", "c", "d")]
    assert same_pictures(paths) == [[0, 3], [1], [2], [4]]
