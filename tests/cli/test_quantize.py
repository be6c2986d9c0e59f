"""What `mmconvnext quantize` refuses, before anything is exported."""

import pytest
import torch

from mmconvnext.data import generate_shapes

CONFIG = "mask_rcnn_convnext_shapes"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save({"state_dict": {}}, path)
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(folder, num_train=2, num_val=1, image_size=64)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "-1"], "--max-drop -1: a loss of AP (0-100) is 0 or more"),
        (["--max-drop", "nan"], "--max-drop nan: a loss of AP"),
        (["--calibration", "0"], "--calibration 0: it takes one picture or more"),
        (["--to", "bf16", "--format", "onnx"], "take --to int8 or fp16, or --format openvino"),
        (["--to", "fp16", "--out", "a.onnx"], "--format openvino writes a file whose name ends"),
        (["--cfg-options", "train_dataloader=None"], "has no train_dataloader, whose pictures"),
        (["--cfg-options", "test_evaluator=None"], "has no COCO metric in test_evaluator"),
        (["--cfg-options", "train_dataloader.dataset.data_prefix.img=no/"], "no (train_dataload"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, checkpoint, shapes, main):
    pytest.importorskip("nncf", reason="pip install mmconvnext[quantize]")
    given = ["--data-root", shapes, *arguments]
    assert message in main("quantize", CONFIG, checkpoint, *given, code=1)


def test_an_unknown_precision_names_those_that_there_are(main, capsys):
    with pytest.raises(SystemExit):
        main("quantize", CONFIG, "--to", "int4")
    assert "choose from int8, bf16, fp16" in capsys.readouterr().err.replace("'", "")


def test_a_package_that_is_missing_is_named(checkpoint, shapes, main, monkeypatch):
    monkeypatch.setattr("mmconvnext.cli.quantize.find_spec", lambda name: None)
    shown = main("quantize", CONFIG, checkpoint, "--data-root", shapes, code=1)
    assert "--to int8 --format openvino needs nncf: pip install 'mmconvnext[quantize]'" in shown
