"""Who is compared as a runtime, what the table says, and an exported file at work."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from benchmarks import deploy
from benchmarks.__main__ import parse_args
from benchmarks.comparison import Results, UnequalResultsError
from benchmarks.runtimes import CHECKPOINT, PICTURES, Exported
from benchmarks.worker import Timing
from mmconvnext.runtime import detector
from tests.benchmarks.helpers import cells
from tests.benchmarks.test_detector import detections


def arguments(*options: object):
    given = [*map(str, options)]
    return parse_args(["deploy", "--rounds", "1", "--warmup", "0", "--threads", "2", *given])


@pytest.mark.parametrize(("seconds", "goal"), [(1.0, "1.3: met"), (1.6, "1.3: MISSED")])
def test_the_command(monkeypatch, coco_tiny, seconds, goal):
    """Ours comes first; what is aimed at stands beside what was reached."""
    prepared = {}

    def run(candidates, args, check, title):
        names = [each.name for each in candidates]
        assert names == ["ours", "ONNX Runtime", "OpenVINO fp32"]
        assert len({each.arguments["folder"] for each in candidates}) == 1
        times = {"ours": 2.0, "ONNX Runtime": 1.25, "OpenVINO fp32": seconds}
        timings = {name: [Timing(time)] for name, time in times.items()}
        sizes = {"images": 2, "size": 3 * 2**20, "startup": 1.25, "resident": 2**30}
        return Results(title, timings, facts={c.name: {**sizes, **c.facts} for c in candidates})

    monkeypatch.setattr(deploy, "run", run)
    monkeypatch.setattr(deploy, "_prepare", lambda *a: prepared.update(files=a[2]))
    monkeypatch.setattr(deploy, "_profile", lambda *_: [("", "ms", "share"), ("Conv", "7", "70%")])
    options = ["--data-root", coco_tiny, "--groups", "Mask T", "--profile"]
    chosen = arguments(*options, "--forms", "ONNX Runtime", "OpenVINO fp32")
    text = deploy.compare(chosen).text()
    assert [file.name for file in prepared["files"]] == ["detector.onnx", "detector.xml"]
    assert "Mask T, 2 pictures of 800 x 1216, cpu" in text
    row = cells(text, "OpenVINO fp32")
    assert row[-5:] == [f"{2 / seconds:.2f}", goal, "3", "1.2", "1024"]
    assert cells(text, "ONNX Runtime")[-4] == "-"
    assert cells(text, "Conv")[-1] == "70%"


def test_all_forms_and_their_files():
    chosen = arguments("--data-root", "x")
    made = {each.name: each for each in deploy.candidates("cascade", "folder", chosen)}
    assert [*made] == ["ours", *deploy.FORMS]
    assert made["OpenVINO fp32"].arguments["files"] == ["detector.xml", "detector.bin"]
    assert made["OpenVINO int8"].arguments["files"] == ["int8.xml", "int8.bin"]
    assert made["ONNX Runtime int8"].arguments["files"] == ["int8.onnx"]
    assert made[deploy.SAME].arguments["peer"].startswith("mmdet::")
    assert made[deploy.COMPILED].arguments["compiled"]


def test_unequal_results_are_not_timed():
    assert deploy.check("a", detections(), detections(boxes=5e-3))["boxes"] > 0
    with pytest.raises(UnequalResultsError, match="ONNX Runtime and ours differ in the boxes"):
        deploy.check("ONNX Runtime", detections(), detections(boxes=2e-2))
    assert deploy.check("OpenVINO int8", detections(), detections(boxes=2e-2)) == {}
    with pytest.raises(UnequalResultsError, match="OpenVINO int8 detects nothing"):
        deploy.check("OpenVINO int8", detections(), {"boxes 0": np.zeros((0, 4))})


def test_a_form_without_its_package_is_left_out():
    with pytest.raises(ImportError, match="nothing_of_this_name is not installed"):
        Exported(folder="x", files=["a"], needs="nothing_of_this_name", threads=1)


def test_a_file_at_work(tmp_path, monkeypatch):
    boxes = np.float32([[[2, 2, 10, 12], [0, 0, 0, 0]]])
    found = [boxes, np.float32([[0.5, -1]]), np.array([[3, -1]]), np.ones((1, 2, 28, 28), "f4")]
    pictures = []

    class Session:
        meta: ClassVar = {"mask_threshold": 0.5, "classes": ["a"] * 4}

        def __init__(self, *_):
            pass

        def __call__(self, given):
            pictures.append(given)
            return found

    monkeypatch.setattr(detector, "Session", Session)
    np.save(tmp_path / PICTURES, np.arange(2 * 16 * 20 * 3, dtype=np.uint8).reshape(2, 16, 20, 3))
    (tmp_path / CHECKPOINT).write_bytes(b"12345")
    form = Exported(folder=str(tmp_path), files=[CHECKPOINT], needs="numpy", threads=64)
    arrays = form.check()
    form.run()
    assert len(pictures) == 5  # the first one twice in the check
    assert pictures[0][0, 0, 0].tolist() == [2, 1, 0]  # RGB
    assert arrays["labels 1"].tolist() == [3]
    mask = np.unpackbits(arrays["masks 0"], axis=-1)[0, :, :20]
    assert mask.sum() == 8 * 10
    facts = form.facts()
    assert (facts["size"], facts["images"]) == (5, 2)
    assert facts["startup"] > 0
