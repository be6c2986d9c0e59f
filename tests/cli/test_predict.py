"""`mmconvnext predict`: what it takes, what it writes, what it leaves out."""

import csv
import http.server
import json
import shutil
import sys
import threading
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmconvnext.cli import main
from mmconvnext.inference import inputs as inputs_module
from mmconvnext.inference.detector import Detector
from mmconvnext.inference.inputs import count_frames, find_inputs, frames
from mmconvnext.inference.outputs import WRITERS
from tests.inference.conftest import CLASSES, CONFIG, checkpoint, shapes  # noqa: F401 (fixtures)


@pytest.fixture
def folder(shapes, tmp_path):  # noqa: F811
    """Pictures whose names differ in suffix, case and folder alone."""
    root = tmp_path / "in"
    (root / "more" / "deep").mkdir(parents=True)
    one, two, *_ = sorted((shapes / "val").iterdir())
    shutil.copy(one, root / "a.png")
    Image.open(two).save(root / "a.bmp")
    shutil.copy(one, root / "A.png")
    shutil.copy(two, root / "more" / "a.png")
    Image.open(two).save(root / "more" / "deep" / "große Scheibe.gif")
    return root


@pytest.fixture
def predict(checkpoint, tmp_path, capsys):  # noqa: F811
    """Call the command, for its exit code, what it printed, and the folder it wrote."""

    def call(*arguments, config=(CONFIG, checkpoint)):
        out = tmp_path / "out"
        alone = ["--cfg-options", "test_dataloader.batch_size=1"]
        code = main(["predict", *map(str, [*config, *arguments, "--out", out]), *alone])
        return code, capsys.readouterr(), out

    return call


def rows(out):
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def video(path, pictures=7, rate=10):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (96, 64))
    for number in range(pictures):
        writer.write(np.full((64, 96, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_folder(predict, folder, checkpoint):  # noqa: F811
    code, printed, out = predict(folder)
    assert code == 0
    content = json.loads((out / "predictions.json").read_text("utf-8"))
    names = ["A.png", "a.bmp", "a.png", "more/a.png", "more/deep/große Scheibe.gif"]
    assert [image["file_name"] for image in content["images"]] == names
    assert [each["name"] for each in content["categories"]] == list(CLASSES)
    drawn = {
        p.relative_to(out / "pictures").as_posix() for p in out.rglob("*.*") if p.parent != out
    }
    assert drawn == {
        "A.png", "a.bmp", "a_2.png", "more/a.png", "more/deep/große Scheibe.gif.png",
    }  # fmt: skip
    objects = content["annotations"]
    assert f"5 pictures, {len(objects)} objects" in printed.out
    assert "predicting" in printed.err
    # what the detector finds
    found = Detector(CONFIG, checkpoint, batch=1)(folder / "a.bmp").above(0.3)
    of_one = [each for each in objects if each["image_id"] == 2]
    assert [each["score"] for each in of_one] == found.scores.tolist()
    assert [each["category"] for each in of_one] == found.names
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    masks = [coco.annToMask(each) for each in of_one]
    np.testing.assert_array_equal(np.array(masks, dtype=bool), found.masks)
    assert [each["area"] for each in of_one] == found.masks.sum((1, 2)).tolist()
    table = rows(out)
    assert [row["picture"] for row in table] == [names[each["image_id"] - 1] for each in objects]
    assert [float(row["left"]) for row in table] == [each["bbox"][0] for each in objects]
    picture = cv2.imread(str(out / "pictures" / "a.bmp"))
    assert not np.array_equal(picture, cv2.resize(cv2.imread(str(folder / "a.bmp")), (640, 640)))


def test_thresholds_and_classes(predict, folder):
    one = folder / "a.png"
    code, _, out = predict(one, "--to", "csv", "--threshold", "0", "disk=0.4", "cross=1")
    assert code == 0
    assert [path.name for path in out.iterdir()] == ["predictions.csv"]
    least = {}
    for row in rows(out):
        least[row["class"]] = min(float(row["score"]), least.get(row["class"], 1))
    assert set(least) == {"disk", "triangle"}
    assert least["disk"] >= 0.4 > 0.3 > least["triangle"]
    shutil.rmtree(out)
    assert predict(one, "--to", "csv", "--classes", "triangle", "disk")[0] == 0
    assert {row["class"] for row in rows(out)} == {"disk", "triangle"}
    assert all(float(row["score"]) >= 0.3 for row in rows(out))


def test_bad_files_are_named_and_left_out(predict, folder, tmp_path):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no picture")
    (tmp_path / "empty.mp4").touch()
    code, printed, out = predict(folder, tmp_path / "empty.mp4", "--to", "coco")
    assert code == 1
    for path in (folder / "broken.png", folder / "text.jpg", tmp_path / "empty.mp4"):
        assert f"left out: {path} " in printed.err
    assert printed.err.count("left out") == 3
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 5


@pytest.mark.parametrize("has_av", [True, False])
def test_a_video(predict, tmp_path, monkeypatch, has_av):
    if has_av:
        pytest.importorskip("av")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = video(tmp_path / "long.avi")
    code, _, out = predict(path, path, "--batch", "3", "--classes", "disk", "--threshold", "1")
    assert code == 0
    content = json.loads((out / "predictions.json").read_text())
    assert [i["file_name"] for i in content["images"]] == [f"long.avi/{n:06}" for n in range(1, 8)]
    (written,) = (out / "pictures").iterdir()
    assert written.name == "long.avi.mp4"
    capture = cv2.VideoCapture(str(written))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    levels = []
    while (read := capture.read())[0]:
        assert read[1].shape == (448, 672, 3)
        levels.append(float(read[1].mean()))
    np.testing.assert_allclose(levels, np.arange(7) * 20, atol=4)


def test_a_video_that_ends_too_early_is_named(tmp_path):
    path, random = tmp_path / "cut.avi", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(40):
        writer.write(random.integers(0, 255, (64, 96, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    faults = []
    found = list(frames(find_inputs([str(path)]), faults))
    assert 0 < len(found) < 40
    assert faults == [f"{path} ends after {len(found)} of 40 pictures"]
    by_url = ["https://a.b/film.MP4?x=1#y", "https://a.b/a.jpg?film.mp4"]
    assert [each.is_stream for each in find_inputs(by_url)] == [True, False]


def test_a_camera_is_read_as_long_as_there_is_something(monkeypatch):
    class Camera:
        def __init__(self, number):
            assert number == 1
            self.left = 3

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 6, 3), np.uint8)

        def get(self, key):
            return 0.0

        def release(self):
            self.left = None

    found = find_inputs(["camera:1"])
    assert count_frames(found) is None
    monkeypatch.setattr(inputs_module.cv2, "VideoCapture", Camera)
    names = [(each.name, each.video, each.rate) for each in frames(found, [])]
    assert names == [(f"camera:1/{n:06}", "camera:1", 25.0) for n in (1, 2, 3)]


def test_what_was_written_is_whole_after_an_interruption(predict, folder, monkeypatch):
    def interrupted(detector, pictures, faults):
        yield from whole(detector, list(pictures)[:2], faults)
        raise KeyboardInterrupt

    whole = Detector.predict
    monkeypatch.setattr(Detector, "predict", interrupted)
    code, _, out = predict(folder)
    assert code == 130
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 2
    assert sorted(path.name for path in out.iterdir()) == [
        "pictures",
        "predictions.csv",
        "predictions.json",
    ]


@pytest.fixture
def server(folder):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_urls(predict, folder, server, monkeypatch):
    absent = f"{server}/absent.png"
    code, printed, out = predict(f"{server}/a.png?x=1", f"{server}/more/a.png", absent)
    assert code == 1
    assert f"left out: {absent} cannot be had: HTTP Error 404" in printed.err
    content = json.loads((out / "predictions.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == [f"{server}/a.png?x=1", f"{server}/more/a.png"]
    drawn = sorted(path.name.partition("_a.")[2] for path in (out / "pictures").iterdir())
    assert drawn == ["png", "png_x_1.png"]
    by_url = [each for each in content["annotations"] if each["image_id"] == 2]
    shutil.rmtree(out)
    assert predict(folder / "more" / "a.png")[0] == 0
    by_path = json.loads((out / "predictions.json").read_text())["annotations"]
    assert [each["bbox"] for each in by_url] == [each["bbox"] for each in by_path]
    shutil.rmtree(out)
    monkeypatch.setattr(inputs_module, "MAX_BYTES", 100)
    assert "has more than 100 bytes" in predict(f"{server}/a.png")[1].err


def test_names_of_inputs(folder, tmp_path):
    found = find_inputs(
        [str(folder / "more"), str(folder / "*.png"), str(folder / "more" / "a.png")]
    )
    names = ["more/a.png", "more/deep/große Scheibe.gif", "A.png", "a.png"]
    assert [each.name for each in found] == names
    pattern = str(folder / "**" / "*.png")
    assert [each.name for each in find_inputs([pattern])] == ["A.png", "a.png", "more/a.png"]
    (tmp_path / "odd[1].png").touch()  # no pattern, where there is such a file
    assert find_inputs([str(tmp_path / "odd[1].png")])[0].name == "odd[1].png"


def test_what_is_refused(predict, folder, tmp_path, checkpoint):  # noqa: F811
    def refused(says, *arguments, **more):
        code, printed, _ = predict(*arguments, **more)
        assert code == 1
        assert says in printed.err
        assert "Traceback" not in printed.err

    refused("nothing to predict on")
    refused("nowhere.jpg is no file; give", tmp_path / "nowhere.jpg")
    (tmp_path / "empty").mkdir()
    refused("empty has no pictures", tmp_path / "empty")
    refused("--threshold: '2' is no score", folder, "--threshold", "2")
    refused("'a.jpg' is no score", folder, "--threshold", "0.3", "a.jpg")
    refused("has no class 'disc' (did you mean 'disk'?); it has 3: '", folder, "--classes", "disc")
    refused("has no class 'x'", folder, "--threshold", "x=0.5")
    refused("batch=0", folder, "--batch", "0")
    refused("there is no checkpoint", folder, config=(CONFIG, "nowhere.pth"))
    refused("is no work folder of a training", folder, config=(tmp_path,))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    refused("not an empty folder", folder)


def test_every_kind_can_be_chosen(repo):
    from mmconvnext.cli.predict import KINDS

    assert tuple(WRITERS) == KINDS
