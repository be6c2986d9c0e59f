import json

CONFIG = "configs/mask_rcnn_convnext_t_coco.py"


def cells(output):
    lines = (line.strip("|").split("|") for line in output.splitlines() if line.startswith("|"))
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def failed(process):
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.startswith("error: ")
    return process.stderr


def test_prints_parts_sum_and_protocol(run_tool):
    process = run_tool("get_flops.py", CONFIG)
    assert process.returncode == 0, process.stderr
    rows = cells(process.stdout)
    assert rows["sum"] == ["48.1", "261.9"]
    assert rows["backbone"] == ["27.8", "90.9"]
    assert "800x1280 (height x width), 1000 proposals" in process.stdout
    assert "100 RoIs through each mask head" in process.stdout


def test_settings_and_the_file(run_tool, tmp_path):
    path = tmp_path / "cost.json"
    options = ["--cfg-options", "model.backbone.arch=small", "--shape", 64, 96, "--json", path]
    process = run_tool("get_flops.py", CONFIG, *options)
    assert process.returncode == 0, process.stderr
    assert "64x96 (height x width)" in process.stdout
    content = json.loads(path.read_text())
    assert content["shape"] == [64, 96]
    assert content["parts"][0] == {
        "name": "backbone",
        "params": 49_456_032,
        "flops": content["parts"][0]["flops"],
    }
    assert cells(process.stdout)["sum"][1] == f"{content['flops'] / 1e9:.1f}"


def test_mistakes_are_one_message(run_tool):
    assert "no config file configs/none.py" in failed(run_tool("get_flops.py", "configs/none.py"))
    shape = failed(run_tool("get_flops.py", CONFIG, "--shape", 0, 64))
    assert "shape=(0, 64) must be two positive integers" in shape
