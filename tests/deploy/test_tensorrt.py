"""What is written for TensorRT has documented operators, and finds what the checkpoint does."""

import sys
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch

from mmconvnext.analysis.parity import compare
from mmconvnext.cli import main
from mmconvnext.deploy import tensorrt
from mmconvnext.errors import CheckpointError, ConfigError
from mmconvnext.inference.detector import Detector
from tests.deploy.conftest import MASK, config

onnx = pytest.importorskip("onnx", reason="pip install mmconvnext[export]")
pytest.importorskip("onnxscript", reason="pip install mmconvnext[export]")


def test_a_file_of_one_size(checkpoints, pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="pip install mmconvnext[export]")
    config(MASK).dump(tmp_path / "tiny.py")
    arguments = [tmp_path / "tiny.py", checkpoints[MASK], "--to", "tensorrt", "--size", 150, 150]
    out = tmp_path / "tiny.onnx"
    assert main(["export", *map(str, [*arguments, "--fp16", "--out", out])]) == 0
    printed = capsys.readouterr().out
    assert "all its operators are documented for TensorRT" in printed
    assert "no engine was built and nothing was run by TensorRT: No module named" in printed
    assert "--optShapes=pictures:1x150x150x3 --maxShapes=pictures:8x150x150x3 --fp16" in printed
    batch, *sides = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [side.dim_value for side in sides] == [150, 150, 3]
    mine = Detector(config(MASK), checkpoints[MASK], batch=1)
    same = [path for path in pictures if "150x150" in path]
    parity = compare(mine, Detector(config(MASK), str(out), batch=1), same)
    assert parity.equal, str(parity)
    assert parity.objects > 3


def model(*nodes, opset: int = 20, constants=()):
    graph = onnx.helper.make_graph(nodes, "graph", [], [], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def node(kind: str, *inputs: str, **attributes):
    return onnx.helper.make_node(kind, inputs, ["y"], **attributes)


K = onnx.numpy_helper.from_array(np.array([3840]), "k")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (model(node("BitShift", "a", "b")), "take: BitShift (ONNX-TensorRT"),
        (model(node("Relu", "a", domain="com.other")), "take: com.other::Relu"),
        (model(node("TopK", "a", "k"), constants=[K]), "TopK with K=3840"),
        (model(node("TopK", "a", "k")), "TopK with a K that is no constant"),
        (model(node("Relu", "a"), opset=25), "opset 25"),
        (
            model(
                node("If", "a", then_branch=model(node("Unique", "b")).graph),
            ),
            "take: Unique",
        ),
    ],
)
def test_other_operators_are_refused_by_name(made, message, tmp_path):
    onnx.save(made, tmp_path / "a.onnx")
    with pytest.raises(ConfigError) as refused:
        tensorrt.check_operators(tmp_path / "a.onnx")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tensorrt"], "needs the pictures' --size HEIGHT WIDTH"),
        (["--to", "tensorrt", "--size", "0", "9"], "--size 0 9 must be 1 or more"),
        (["--to", "tensorrt", "--size", "9", "9", "--check", "a"], "TensorRT is not run here"),
        (["--to", "onnx", "--fp16"], "--size and --fp16 are for --to tensorrt, not --to onnx"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, checkpoints, tmp_path, capsys):
    config(MASK).dump(tmp_path / "tiny.py")
    assert main(["export", str(tmp_path / "tiny.py"), str(checkpoints[MASK]), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_an_engine_is_what_tensorrt_gives(tmp_path, monkeypatch):
    """By a stand-in: how it is called, not what TensorRT does."""
    library = mock.MagicMock(spec=ModuleType)
    library.Logger, library.BuilderFlag = mock.MagicMock(), mock.MagicMock()
    library.Builder, library.OnnxParser = mock.MagicMock(), mock.MagicMock()
    builder = library.Builder.return_value
    builder.build_serialized_network.return_value = b"engine"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    path = tmp_path / "a.onnx"
    with pytest.raises(CheckpointError, match="there is no GPU"):
        tensorrt.build_engine(path, (9, 8), fp16=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert tensorrt.build_engine(path, (9, 8), fp16=True).read_bytes() == b"engine"
    profile = builder.create_optimization_profile.return_value
    profile.set_shape.assert_called_once_with("pictures", (1, 9, 8, 3), (1, 9, 8, 3), (8, 9, 8, 3))
    flag = builder.create_builder_config.return_value.set_flag
    flag.assert_called_once_with(library.BuilderFlag.FP16)
    library.OnnxParser.return_value.parse_from_file.return_value = False
    library.OnnxParser.return_value.num_errors = 0
    with pytest.raises(CheckpointError, match="TensorRT does not take"):
        tensorrt.build_engine(path, (9, 8), fp16=False)
