import json

from mmconvnext.evaluation.tables import ap_table, by_data_set, dataset_table, format_table

METRICS = {
    "coco/bbox_mAP": 0.5123,
    "coco/bbox_mAP_50": 0.75,
    "coco/bbox_mAP_s": -1.0,
    "coco/segm_mAP": 0.25,
}
CLASSWISE = {
    "coco/bbox/cat_precision": 0.4,
    "coco/segm/cat_precision": 0.3,
}


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first one."""
    lines = (line.strip("|").split("|") for line in table.splitlines() if line.startswith("|"))
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_rows_are_formatted():
    rows = [["a", "b"], ["c", "10"], ["sum", "9"]]
    text = format_table(rows, footing=True).splitlines()
    assert text[1::2] == ["| a   |  b |", "| c   | 10 |", "| sum |  9 |"]
    assert text[::2] == ["+-----+----+"] * 4
    plain = format_table(rows, heading=False, numbers=False).splitlines()
    assert plain[1:4] == ["| a   | b  |", "| c   | 10 |", "| sum | 9  |"]


def test_ap_is_in_percent_and_has_no_value_where_there_is_no_object():
    rows = cells(ap_table(METRICS))
    assert rows["box"] == ["51.2", "75.0", "-", "-", "-", "-"]
    assert rows["mask"][0] == "25.0"
    # classes get a table of their own
    assert cells(ap_table(METRICS | CLASSWISE))["cat"] == ["40.0", "30.0"]


def test_metrics_are_sorted_by_kind():
    (overall, classwise) = by_data_set(METRICS | CLASSWISE)[""]
    assert (overall["bbox_mAP"], overall["segm_mAP"]) == (0.5123, 0.25)
    assert classwise == {"bbox": {"cat": 0.4}, "segm": {"cat": 0.3}}


def test_classes_may_have_slashes_in_their_names_and_no_objects():
    metrics = {"coco/bbox/car/truck_precision": 0.4, "coco/bbox/cat_precision": float("nan")}
    assert by_data_set(metrics)[""].classwise["bbox"] == {"car/truck": 0.4, "cat": -1.0}


def test_each_data_set_has_its_rows():
    metrics = {f"{name}/{key}": value for name in "ab" for key, value in METRICS.items()}
    metrics |= {f"b/{key}": value for key, value in CLASSWISE.items()}
    metrics["mine/bbox_mAP"] = 0.125
    sets = by_data_set(metrics)
    assert list(sets) == ["a", "b", "mine"]
    assert sets["a"].overall["segm_mAP"] == 0.25
    rows = cells(ap_table(metrics))
    assert rows["a: box"][0] == rows["b: box"][0] == "51.2"
    assert rows["mine: box"][0] == "12.5"
    assert rows["AP of a class of b, 0-100"] == ["box", "mask"]


def write(path, images, objects):
    """Write a COCO file; an object is (image, category, area in pixels, whether a crowd)."""
    keys = ("image_id", "category_id", "area", "iscrowd")
    content = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [dict(zip(keys, values, strict=True)) for values in objects],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_data_set_is_counted_with_a_column_a_split(tmp_path):
    train = [(1, 7, 9216, 0), (1, 3, 1024, 0), (2, 7, 1023, 0), (2, 7, 9215.5, 0), (3, 3, 5, 1)]
    files = {
        "train": write(tmp_path / "a.json", range(1, 7), train),
        "val": write(tmp_path / "b.json", [1], [(1, 3, 20000, 0)]),
    }
    rows = cells(dataset_table(files))
    assert list(rows.items()) == [
        ("", ["train", "val"]),
        ("images", ["6", "1"]),
        ("images without objects", ["3", "0"]),  # a crowd is an object
        ("cat", ["1", "1"]),  # without crowds
        ("dog", ["3", "0"]),
        ("small", ["1", "0"]),
        ("medium", ["2", "0"]),
        ("large", ["1", "1"]),
        ("crowds", ["1", "0"]),
    ]
    empty = cells(dataset_table({"val": write(tmp_path / "a.json", [1, 2], [])}))
    assert empty == {name: ["0"] for name in rows} | {
        "": ["val"],
        "images": ["2"],
        "images without objects": ["2"],
    }
