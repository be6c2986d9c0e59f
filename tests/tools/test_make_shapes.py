import json

from mmconvnext.data import CLASSES


def test_makes_the_data_set_and_counts_it(run_tool, tmp_path):
    process = run_tool("make_shapes.py", tmp_path, "--train", 8, "--val", 3, "--size", 96)
    assert process.returncode == 0, process.stderr
    content = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    rows = {
        line.strip("|").split("|")[0].strip(): line.strip("|").split("|")[1].strip()
        for line in process.stdout.splitlines()
        if line.startswith("|")
    }
    assert rows["images"] == "8"
    for index, name in enumerate(CLASSES):
        expected = sum(
            a["category_id"] == index + 1 and not a["iscrowd"] for a in content["annotations"]
        )
        assert rows[name] == str(expected)


def test_mistakes_are_one_message(run_tool, tmp_path):
    process = run_tool("make_shapes.py", tmp_path, "--size", 3)
    assert process.returncode == 1
    assert process.stderr.startswith("error: image_size=3 must be an integer of at least 64")
    assert "Traceback" not in process.stderr


def test_a_folder_in_use_is_one_message(run_tool, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    process = run_tool("make_shapes.py", tmp_path, "--train", 1, "--val", 1, "--size", 64)
    assert process.returncode == 1
    assert "has other files: thesis.txt" in process.stderr
    assert "Traceback" not in process.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
