"""A file as ``mmconvnext export`` writes it, of a detector that is made of a few operators."""

import json
from pathlib import Path

import numpy as np
import pytest

CLASSES = ("disk", "triangle")
BOXES = np.float32([[10, 6, 30, 26], [4.5, 2, 20, 30], [0, 0, 0, 0]])
META = {"classes": CLASSES, "mask_threshold": 0.5, "precision": "f32"}


def small_masks() -> np.ndarray:
    """Masks of the left and of the upper half of a box."""
    masks = np.zeros((3, 28, 28), np.float32)
    masks[0, :, :14] = masks[1, :14] = 1
    return masks


def write_onnx(path: Path, meta: dict | None = META, masks: np.ndarray | None = None) -> Path:
    """Two objects on every picture; scores are its brightness, in 0-1, and half of it.

    Args:
        path: to write.
        meta: of the detector; None for a file that is none.
        masks: (1, 3, h, w).
    """
    onnx = pytest.importorskip("onnx", reason="pip install 'mmconvnext[export]'")
    from onnx import TensorProto, helper, numpy_helper

    masks = small_masks()[None] if masks is None else masks
    constants = {
        "axes": np.int64([1, 2, 3]),
        "white": np.float32(255),
        "zero": np.float32(0),
        "factors": np.float32([1, 0.5, 0]),
        "filling": np.float32([0, 0, -1]),
        "box": BOXES[None],
        "label": np.float32([0, 1, -1]),
        "mask": masks.astype(np.float32),
        "one": np.int64([1]),
        "two": np.int64([1, 2]),
        "three": np.int64([1, 2, 3]),
    }
    kind = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "bool": TensorProto.BOOL}
    nodes = [
        ("Cast", "pictures", "pixels", {"to": kind["float"]}),
        ("ReduceMean", "pixels axes", "mean", {"keepdims": 0}),
        ("Div", "mean white", "bright", {}),
        ("Unsqueeze", "bright one", "column", {}),
        ("Mul", "column factors", "products", {}),
        ("Add", "products filling", "scores", {}),
        ("Mul", "bright zero", "zeros", {}),
        ("Unsqueeze", "zeros one", "zeros1", {}),
        ("Unsqueeze", "zeros two", "zeros2", {}),
        ("Unsqueeze", "zeros three", "zeros3", {}),
        ("Add", "zeros2 box", "boxes", {}),
        ("Add", "zeros1 label", "numbers", {}),
        ("Cast", "numbers", "labels", {"to": kind["int"]}),
        ("Add", "zeros3 mask", "floats", {}),
        ("Cast", "floats", "masks", {"to": kind["bool" if masks.dtype == bool else "float"]}),
    ]
    nodes = [helper.make_node(op, i.split(), [o], **kw) for op, i, o, kw in nodes]
    value = helper.make_tensor_value_info
    outputs = {"boxes": "float", "scores": "float", "labels": "int"}
    outputs["masks"] = "bool" if masks.dtype == bool else "float"
    graph = helper.make_graph(
        nodes,
        "detector",
        [value("pictures", TensorProto.UINT8, ["B", "H", "W", 3])],
        [value(name, kind[of], None) for name, of in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    if meta is not None:
        helper.set_model_props(model, {"mmconvnext": json.dumps(meta)})
    onnx.save(model, path)
    return path


def write_openvino(path: Path) -> Path:
    """The same for OpenVINO."""
    openvino = pytest.importorskip("openvino", reason="pip install 'mmconvnext[runtime]'")
    model = openvino.Core().read_model(write_onnx(path.with_suffix(".onnx")))
    model.set_rt_info(json.dumps(META), ["mmconvnext"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime", reason="pip install 'mmconvnext[export]'")
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")
