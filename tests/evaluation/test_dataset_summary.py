import json

import pytest

from mmconvnext.evaluation.dataset_summary import summarise

NAMES = {3: "cat", 7: "dog"}


def write(path, images, objects):
    """Write a COCO file; an object is (image, category, area in pixels, whether a crowd)."""
    content = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
        "annotations": [
            dict(zip(("image_id", "category_id", "area", "iscrowd"), values, strict=True))
            for values in objects
        ],
    }
    path.write_text(json.dumps(content))
    return path


def cells(table):
    lines = (line.strip("|").split("|") for line in table.splitlines() if line.startswith("|"))
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


@pytest.fixture
def rows(tmp_path):
    train = [(1, 7, 9216, 0), (1, 3, 1024, 0), (2, 7, 1023, 0), (2, 7, 9215.5, 0), (3, 3, 5, 1)]
    files = {
        "train": write(tmp_path / "a.json", range(1, 7), train),
        "val": write(tmp_path / "b.json", [1], [(1, 3, 20000, 0)]),
    }
    return cells(summarise(files))


def test_each_split_has_a_column(rows):
    assert rows[""] == ["train", "val"]
    assert all(len(row) == 2 for row in rows.values())


def test_images_are_counted_and_a_crowd_is_an_object(rows):
    assert rows["images"] == ["6", "1"]
    assert rows["images without objects"] == ["3", "0"]


def test_objects_are_counted_by_class_without_crowds(rows):
    assert rows["cat"] == ["1", "1"]
    assert rows["dog"] == ["3", "0"]
    assert rows["crowds"] == ["1", "0"]


def test_sizes_are_those_of_coco(rows):
    assert rows["small"] == ["1", "0"]
    assert rows["medium"] == ["2", "0"]
    assert rows["large"] == ["1", "1"]


def test_rows_keep_their_order_whatever_comes_first_in_the_file(rows):
    header, counts = ["", "images", "images without objects"], ["small", "medium", "large"]
    assert list(rows) == [*header, "cat", "dog", *counts, "crowds"]


def test_a_split_without_objects_has_zeros(tmp_path):
    rows = cells(summarise({"val": write(tmp_path / "a.json", [1, 2], [])}))
    assert rows.pop("") == ["val"]
    assert rows.pop("images") == rows.pop("images without objects") == ["2"]
    assert set(rows) == {"cat", "dog", "small", "medium", "large", "crowds"}
    assert all(row == ["0"] for row in rows.values())
