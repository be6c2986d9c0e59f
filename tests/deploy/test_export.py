"""Exported files find what the checkpoint does, say what they are, and are refused where broken."""

import importlib.util
import json
import shutil
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import nms

from mmconvnext.analysis.parity import compare
from mmconvnext.cli import main
from mmconvnext.data import generate_shapes
from mmconvnext.deploy import export, sessions
from mmconvnext.deploy.sessions import KEY, SUFFIXES, Session, is_exported
from mmconvnext.errors import CheckpointError, UnsafeCheckpointError, UserError
from mmconvnext.inference.detector import Detector
from mmconvnext.runtime import Detector as Exported
from tests.deploy.conftest import CLASSES, MASK, config

NEEDED = {"torch-export": "torch", "onnx": "onnxscript", "openvino": "openvino"}
KINDS = [*SUFFIXES]
OPEN = cache(sessions._OPEN[".pt2"])


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    config(MASK).dump(path)
    return path


@pytest.fixture(scope="module")
def files(checkpoints, config_file, tmp_path_factory) -> dict[str, Path]:
    """A file of each kind that can be made here, of one trace; OpenVINO's of the ONNX file."""
    folder, paths, traced = tmp_path_factory.mktemp("exported"), {}, []
    trace = export.trace

    def once(graph):
        traced[:] = traced or [trace(graph)]
        return traced[0]

    for kind, suffix in SUFFIXES.items():
        if importlib.util.find_spec(NEEDED[kind]) is None:
            continue
        paths[kind] = folder / f"tiny{suffix}"
        arguments = ["export", config_file, checkpoints[MASK], "--to", kind, "--out", paths[kind]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "trace", once)
            if "onnx" in paths and kind == "openvino":
                copy = lambda graph, path, text: shutil.copy(paths["onnx"], path)  # noqa: E731
                patch.setattr(export, "_onnx", copy)
            assert main([*map(str, arguments)]) == 0
    return paths


@pytest.fixture(autouse=True)
def _opened_once(monkeypatch) -> None:
    """torch takes seconds to open a file, but not one that it has open."""
    monkeypatch.setitem(sessions._OPEN, ".pt2", OPEN)


@pytest.fixture(params=KINDS)
def file(files, request) -> Path:
    if request.param not in files:
        pytest.skip(f"{NEEDED[request.param]} is not installed: pip install mmconvnext[export]")
    return files[request.param]


def test_it_finds_what_the_checkpoint_does(file, checkpoints, pictures):
    mine = Detector(config(MASK), checkpoints[MASK], batch=1)
    parity = compare(mine, Detector(config(MASK, allow_imports=True), str(file), batch=1), pictures)
    assert parity.equal, str(parity)
    assert parity.pictures == len(parity.sizes) == len(pictures)
    assert parity.objects > 50


def test_the_runtime_finds_what_predict_does_with_it(file, pictures, tmp_path):
    """Bit for bit; a picture that EXIF turns among them."""
    turned = Image.open(pictures[0]).convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    pictures = [*pictures, str(tmp_path / "turned.jpg"), pictures[0]]
    theirs = Detector(config(MASK, allow_imports=True), str(file), batch=1)
    for found, expected in zip(
        Exported(file, trusted=True).predict(pictures), theirs.predict(pictures), strict=True
    ):
        assert found.coco() == expected.coco()
        assert found.frame.name == expected.frame.name
        assert (found.classes, found.palette) == (tuple(expected.classes), expected.palette)
        np.testing.assert_array_equal(found.image, expected.image)


def test_a_process_that_has_imported_nothing_else_opens_it(run_python, tmp_path):
    """torchvision's operators are known there, too."""

    class Suppress(torch.nn.Module):
        def forward(self, boxes):
            return nms(boxes, boxes[:, 0], 0.5)

    program = torch.export.export(Suppress(), (torch.rand(3, 4),))
    torch.export.save(program, tmp_path / "a.pt2", extra_files={f"{KEY}.json": '{"a": 1}'})
    code = """
import sys
from mmconvnext.deploy.sessions import Session
print(Session(sys.argv[1], trusted=True).meta)
"""
    assert run_python(code, tmp_path / "a.pt2").splitlines()[-1] == "{'a': 1}"


def test_batches_of_one_to_eight(file, pictures):
    session = Session(file, trusted=True)
    pixels = cv2.imread(next(path for path in pictures if "150x150" in path))[None, ..., ::-1]
    alone = session(pixels)
    for count in (2, 8):
        for one, outputs in zip(alone, session(np.repeat(pixels, count, 0)), strict=True):
            assert outputs.shape == (count, *one.shape[1:])
            for each in outputs:
                np.testing.assert_allclose(each, one[0], atol=1e-2)


def test_it_says_what_it_is(file):
    meta = Session(file, trusted=True).meta
    assert meta["classes"] == [*CLASSES]
    assert meta["mask_threshold"] == 0.5
    assert meta["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert "ConvNeXt" in meta["config"]
    assert {"mmconvnext", "git_revision", "checkpoint"} <= meta.keys()


def test_a_test_has_the_checkpoints_ap(files, checkpoints, config_file, tmp_path):
    generate_shapes(tmp_path / "shapes", num_train=1, num_val=3, image_size=96)
    metrics = []
    for number, weights in enumerate((checkpoints[MASK], files.get("onnx", files["torch-export"]))):
        arguments = ["test", config_file, weights, "--data-root", tmp_path / "shapes"]
        arguments += ["--allow-imports"]
        folder = tmp_path / f"run-{number}"
        assert not main([*map(str, [*arguments, "--work-dir", folder])])
        result = json.loads((folder / "result.json").read_text())
        assert Path(result["checkpoint"]).name == weights.name
        metrics.append(result["metrics"])
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert metrics[1][name] == pytest.approx(value, abs=1e-3)


def test_a_difference_is_an_exit_code(
    files, checkpoints, config_file, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("mmconvnext.analysis.parity.BOX", -1.0)
    monkeypatch.setattr(
        export, "export", lambda graph, path, meta: shutil.copy(files["torch-export"], path)
    )
    arguments = ["export", config_file, checkpoints[MASK], "--to", "torch-export"]
    arguments += ["--out", tmp_path / "a.pt2", "--check", pictures[0]]
    assert main([*map(str, arguments)]) == 1
    assert "NOT EQUAL: " in capsys.readouterr().out


def test_a_file_that_can_run_code_is_opened_where_that_is_allowed(files):
    with pytest.raises(UnsafeCheckpointError, match="--allow-imports"):
        Session(files["torch-export"])
    with pytest.raises(UnsafeCheckpointError, match="--allow-imports"):
        Detector(config(MASK), str(files["torch-export"]))


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_broken_file_is_refused(file, damage, tmp_path):
    broken = tmp_path / file.name
    content = file.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if damage == "cut" else b"no model")
    with pytest.raises(CheckpointError, match=r"is no file of `mmconvnext export`"):
        Session(broken, trusted=True)


def test_what_was_there_stays_where_writing_fails(files, tmp_path, monkeypatch):
    target = shutil.copy(files["torch-export"], tmp_path)

    def fails(graph, path, text):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setitem(export._WRITERS, ".pt2", fails)
    before = Path(target).read_bytes()
    with pytest.raises(CheckpointError, match="No space left"):
        export.export(torch.nn.Identity(), Path(target), {})
    assert [path.name for path in tmp_path.iterdir()] == [Path(target).name]
    assert Path(target).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx", "--out", "a.xml"], "--to onnx writes a file whose name ends in .onnx"),
        (["--to", "onnx"], "a config is given with a checkpoint"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, config_file, checkpoints, capsys):
    weights = [str(checkpoints[MASK])] if "--out" in arguments else []
    assert main(["export", str(config_file), *weights, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_tta_is_refused(files):
    cfg = config(MASK, tta_model={"type": "DetTTAModel"}, tta_pipeline=[])
    with pytest.raises(UserError, match="without --tta"):
        Detector(cfg, str(files["torch-export"]), tta=True)


def test_names_of_exported_files():
    assert all(map(is_exported, ("a.onnx", "a.xml", "a.pt2")))
    assert not any(map(is_exported, ("a.pth", "a.pt", None)))
