"""Writing detectors as files of ``torch.export``, ONNX and OpenVINO."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from ast import literal_eval
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mmconvnext.deploy.sessions import KEY, SUFFIXES
from mmconvnext.errors import CheckpointError

OPSET = 20
EXAMPLE = (2, 150, 190, 3)  # pictures; whatever a size is equal to is taken for constant


def export(graph: nn.Module, path: Path, meta: Mapping[str, Any]) -> None:
    """Write a graph of pictures (B, H, W, 3), as the kind of file that a name ends in.

    B is dynamic, and so are H and W but for a graph of one ``size``.

    The file, and OpenVINO's second one of weights, are there whole or not at all.

    Raises:
        CheckpointError: a package is missing, or the file cannot be written.
    """
    text = json.dumps(meta)
    write_whole_files(path, lambda part: _WRITERS[path.suffix](graph, part, text))


def write_whole_files(path: Path, write: Callable[[Path], None]) -> None:
    """Let a function write a file, maybe with others beside it: all of them are there, or none.

    Raises:
        CheckpointError: a package is missing, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            write(Path(folder, path.name))
            # the one that is opened comes last
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name):
                os.replace(part, path.with_name(part.name))
    except (ImportError, OSError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def size_of(path: Path) -> int:
    """Bytes of an exported file, with OpenVINO's weights beside it."""
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(part.stat().st_size for part in parts)


def trace(graph: nn.Module) -> ExportedProgram:
    """A graph by ``torch.export``."""
    size = getattr(graph, "size", None)
    pictures = torch.zeros((EXAMPLE[0], *(size or EXAMPLE[1:3]), 3), dtype=torch.uint8)
    shapes = (dict.fromkeys(range(1 if size else 3), Dim.DYNAMIC),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about torch's own functions
        return torch.export.export(graph.eval(), (pictures,), dynamic_shapes=shapes, strict=False)


def _torch(graph: nn.Module, path: Path, text: str) -> None:
    torch.export.save(trace(graph), path, extra_files={f"{KEY}.json": text})


def _onnx(graph: nn.Module, path: Path, text: str) -> None:
    names = ["boxes", "scores", "labels", "masks"]
    # the converter's empty lists, of which it says that it takes them for lists of integers
    logging.getLogger("onnx_ir._convenience").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            trace(graph), dynamo=True, opset_version=OPSET, verbose=False, input_names=["pictures"]
        )
    for output, name in zip(program.model.graph.outputs, names, strict=False):
        output.name = name
    for node in program.model.graph:  # what is quantised goes by the modules
        if module := _module_of(node.metadata_props):
            node.name = f"{module}/{node.name}"
    program.model.metadata_props[KEY] = text
    program.save(path)


def _module_of(properties: Mapping[str, str]) -> str:
    """The detector's module that an operation was traced in, or nothing."""
    scopes = literal_eval(properties.get("pkg.torch.onnx.name_scopes", "[]"))[:-1]
    # a head that the graph has in a list restarts the names below it
    starts = [i for i, scope in enumerate(scopes) if scope.startswith("detector.")]
    return ".".join(scopes[starts[-1] :]) if starts else ""


def _openvino(graph: nn.Module, path: Path, text: str) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        _onnx(graph, Path(folder, "graph.onnx"), text)
        model = openvino.Core().read_model(Path(folder, "graph.onnx"))
    model.set_rt_info(text, [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


_WRITERS = dict(zip(SUFFIXES.values(), (_torch, _onnx, _openvino), strict=True))
