"""The demo from start to end, on a handful of images."""

import json
from contextlib import redirect_stdout
from io import StringIO

import cv2
import pytest

from mmconvnext import cli
from mmconvnext.data import CLASSES

# Two iterations; every box counts as a detection, and there are few of them.
CONFIG = """
_base_ = "{repo}/configs/mask_rcnn_convnext_shapes.py"
model = dict(test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)))
train_cfg = dict(max_iters=2, val_begin=3)
default_hooks = dict(logger=dict(interval=1))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""
IMAGES = ["--train-images", "4", "--val-images", "2"]


@pytest.fixture(scope="module")
def demo(repo, tmp_path_factory):
    """The folder that the demo ran in, with its own defaults for the rest, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tiny.py").write_text(CONFIG.format(repo=repo))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as output:
        patch.chdir(folder)
        code = cli.main(["demo", "--config", "tiny.py", *IMAGES])
    assert code == 0, output.getvalue()[-3000:]
    return folder, output.getvalue()


def test_the_terminal_shows_progress_and_the_table(demo):
    output = demo[1]
    assert "data: 4 + 2 images in data/shapes" in output
    assert "$ mmconvnext train tiny.py --data-root data/shapes" in output
    assert "iteration 2/2 |" in output
    header, box, mask = (line for line in output.splitlines() if line.startswith("| "))
    assert header.startswith("| COCO, 0-100 ")
    assert (box.split()[1], mask.split()[1]) == ("box", "mask")
    assert "numbers: demo/result.json" in output
    assert output.splitlines()[-1] == "where it fails, open in a browser: demo/report.html"


def test_the_commands_output_is_shown_but_for_what_they_advise(demo):
    folder, output = demo
    logs = [(folder / "demo" / f"{name}.log").read_text() for name in ("train", "test")]
    assert "next:" in logs[0]
    hidden = [line for log in logs for line in log.splitlines() if line not in output.splitlines()]
    assert hidden
    assert all(line.startswith(("next:", "  mmconvnext ")) for line in hidden)
    assert "FileClient" not in output


def test_the_trained_detector_is_what_was_evaluated(demo):
    result = json.loads((demo[0] / "demo" / "result.json").read_text())
    assert {"bbox_mAP", "segm_mAP"} <= result["metrics"].keys()
    checkpoint = demo[0] / result["checkpoint"]
    assert checkpoint == demo[0] / "demo" / "train" / "iter_2.pth"
    assert checkpoint.is_file()


def test_pictures_show_each_image_beside_itself(demo):
    """Four times its size, with a title; and all on one sheet."""
    folder = demo[0] / "demo" / "pictures"
    shapes = {path.name: cv2.imread(str(path)).shape for path in folder.iterdir()}
    sheet = shapes.pop("contact_sheet.png")
    assert shapes.keys() == {"000000.png", "000001.png"}
    assert set(shapes.values()) == {(4 * 160 + 40, 2 * 4 * 160, 3)}
    assert sheet == (510, 2 * 960, 3)
    assert "demo/pictures/contact_sheet.png" in demo[1]


def test_the_data_is_what_was_asked_for(demo):
    for split, count in (("train", 4), ("val", 2)):
        path = demo[0] / "data" / "shapes" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        assert len(content["images"]) == count
        assert [c["name"] for c in content["categories"]] == list(CLASSES)


def test_a_tool_that_fails_ends_the_demo_with_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMCONVNEXT_TRACEBACK", raising=False)
    assert cli.main(["demo", "--config", "none.py", *IMAGES]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    first, *rest = err.splitlines()
    assert first == "error: mmconvnext train failed, see demo/train.log:"
    assert any(line.startswith("error: there is no config file none.py") for line in rest)
    assert "error: there is no config file none.py" in (tmp_path / "demo/train.log").read_text()
    assert "mmconvnext test" not in out
    assert not (tmp_path / "demo" / "result.json").exists()
