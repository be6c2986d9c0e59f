"""Exported files in lower precision: int8 by NNCF, half precision by the runtimes' own tools.

What computes boxes out of the heads' outputs, and pictures out of bytes, stays as it is: operations
are told apart by the detector's module that they come from (:mod:`mmconvnext.deploy.export`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmconvnext.deploy.export import write_whole_files
from mmconvnext.deploy.sessions import KEY, Session
from mmconvnext.errors import QuantizationError

PRECISIONS = {"int8": "int8", "bf16": "bf16", "fp16": "f16"}  # of the command line: in a file
# Operations with weights, by OpenVINO's names and by ONNX's.
WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"} | {
    "Conv", "ConvTranspose", "Gemm",
}  # fmt: skip
# The parts that are quantised or not: a stage of the backbone, the neck, a head.
MODULE = re.compile(r"detector\.(backbone\.(?:stages|layers)\.\d+|roi_head\.\w+|\w+)")
OUTSIDE = r"^(?!detector\.)"  # names of operations of no module
_MORE = ". Allow a larger drop, calibrate on more pictures, or take --to fp16"

Measure = Callable[[Path], Mapping[str, float]]


@dataclass
class Quantized:
    """A file in lower precision, with the AP (0-100) of each kind before and after.

    Attributes:
        kept: the detector's modules that are in float32, in the order in which they were put back,
            with the loss of :func:`agreement` that decided the order, and the drop after it.
    """

    path: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def drop(self) -> float:
        """Largest loss of AP."""
        return max(self.before[key] - self.after[key] for key in self.before)


def quantize(
    source: Path,
    to: str,
    pictures: Sequence[NDArray],
    measure: Measure,
    max_drop: float,
    say: Callable[[str], None] = print,
) -> Quantized:
    """Write an exported file in lower precision beside it, with a bounded loss of AP.

    Where int8 loses more, modules are put back to float32, one after the other, in the order of
    what int8 in each of them alone changes on the calibration pictures.

    Args:
        source: an exported file in float32, ``.xml`` or ``.onnx``.
        to: of :data:`PRECISIONS`.
        pictures: (H, W, 3), uint8 RGB, to calibrate with.
        measure: AP (0-100) of a file, of each kind.
        max_drop: of AP, of any kind.
        say: takes lines about the progress.

    Raises:
        QuantizationError: the loss is larger whatever is put back.
    """

    @cache
    def make(kept: tuple[str, ...]) -> Path:
        path = source.with_name(f"{to}-{next(numbers)}{source.suffix}")
        model = _read(source)
        model = calibrated(model, pictures, kept) if to == "int8" else _halved(model, to)
        meta = {**Session(source).meta, "precision": PRECISIONS[to]}
        save(model, meta, path)
        return path

    numbers = count()
    before = measure(source)
    found = Quantized(make(()), before, measure(make(())))
    order: list[tuple[str, float]] = []
    modules = modules_of(source)
    while found.drop > max_drop:
        lost = f"{to} loses {found.drop:.2f} AP, more than --max-drop {max_drop:g}"
        if to != "int8" or len(found.kept) + 1 >= len(modules):
            names = ", ".join(each["module"] for each in found.kept)
            also = f" even with {names} in float32, which leaves one module" * bool(names)
            raise QuantizationError(f"{lost}{also}; no file is written{_MORE}")
        if not order:
            say(f"{lost}: modules are put back to float32")
            order = ranked(source, modules, make, pictures, say)
        module, loss = order.pop(0)
        found.path = make((*(each["module"] for each in found.kept), module))
        found.after = measure(found.path)
        found.kept.append({"module": module, "loss": loss, "drop": found.drop})
        say(f"with {module} in float32 the loss is {found.drop:.2f} AP")
    return found


def ranked(
    source: Path,
    modules: Sequence[str],
    make: Callable[[tuple[str, ...]], Path],
    pictures: Sequence[NDArray],
    say: Callable[[str], None],
) -> list[tuple[str, float]]:
    """Modules and what int8 in each of them alone loses of :func:`agreement`, the most first."""
    expected, losses, start = [*_outputs(source, pictures)], {}, monotonic()
    for number, module in enumerate(modules, 1):
        path = make((*(other for other in modules if other != module),))
        pairs = zip(expected, _outputs(path, pictures), strict=True)
        losses[module] = 1 - float(np.mean([agreement(*pair) for pair in pairs]))
        left = (monotonic() - start) / number * (len(modules) - number)
        say(
            f"ranking {number}/{len(modules)}: int8 in {module} alone loses {losses[module]:.4f} "
            f"of agreement; {left:.0f} s left"
        )
    return sorted(losses.items(), key=lambda pair: -pair[1])


def agreement(expected: Sequence[NDArray], found: Sequence[NDArray]) -> float:
    """How much of what one file finds in a picture another one does, 0 to 1.

    Args:
        expected: boxes (1, N, 4), scores (1, N), labels (1, N) and maybe masks (1, N, h, w).
        found: likewise.

    Returns:
        The mean, weighted by scores, of the best product of the boxes' IoU, the scores' ratio and
        the masks' likeness (1 less the mean difference) among detections of the same label.
    """
    boxes, scores, labels, *masks = (output[0] for output in expected)
    boxes_2, scores_2, labels_2, *masks_2 = (output[0] for output in found)
    mine, theirs = np.flatnonzero(scores >= 0), np.flatnonzero(scores_2 >= 0)
    if not scores[mine].sum():
        return float(not len(theirs))
    total = 0.0
    for i in mine:
        same = theirs[labels_2[theirs] == labels[i]]
        like = _iou(boxes[i], boxes_2[same])
        like = like * np.minimum(scores[i], scores_2[same])
        like = like / np.maximum(np.maximum(scores[i], scores_2[same]), 1e-9)
        if masks:
            like = like * (1 - np.abs(masks[0][i] - masks_2[0][same]).mean((1, 2)))
        total += scores[i] * like.max(initial=0)
    return float(total / scores[mine].sum())


def _iou(box: NDArray, boxes: NDArray) -> NDArray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return common / np.maximum(areas - common, 1e-9)


def _outputs(path: Path, pictures: Sequence[NDArray]) -> Iterator[Sequence[NDArray]]:
    session = Session(path)
    return (session(picture[None]) for picture in pictures)


def speeds(
    paths: Sequence[Path], pictures: Sequence[NDArray], rounds: int = 5
) -> list[list[float]]:
    """Pictures a second of files, in rounds, each of which runs all files, one by one."""
    sessions, found = [Session(path) for path in paths], [[] for _ in paths]
    for number in range(rounds + 1):
        for session, numbers in zip(sessions, found, strict=True):
            start = monotonic()
            for picture in pictures:
                session(picture[None])
            if number:  # the first one warms up
                numbers.append(len(pictures) / (monotonic() - start))
    return found


def modules_of(path: Path) -> list[str]:
    """The detector's modules with weights, of an exported file, in the order of its operations."""
    found = [MODULE.match(name) for name, kind in _operations(_read(path)) if kind in WEIGHTED]
    return [*dict.fromkeys(match[0] for match in found if match)]


def calibrated(model: Any, pictures: Sequence[NDArray], kept: Sequence[str]) -> Any:
    """A model in int8, by NNCF's post-training quantisation, but for some modules."""
    import nncf

    nncf.set_log_level(40)  # of logging: errors
    names = [name for name, _ in _operations(model) if (m := MODULE.match(name)) and m[0] in kept]
    return nncf.quantize(
        model,
        nncf.Dataset(pictures, lambda picture: {"pictures": picture[None]}),
        subset_size=len(pictures),
        # without it, the activations of ConvNeXt's blocks lose 5 AP on shapes
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=names, patterns=[OUTSIDE], validate=False),
    )


def save(model: Any, meta: Mapping[str, Any], path: Path) -> None:
    """Write a model of either runtime with its metadata; half precision by what those say."""
    text = json.dumps(meta)
    if path.suffix == ".onnx":
        import onnx

        onnx.helper.set_model_props(model, {KEY: text})
        return write_whole_files(path, lambda part: onnx.save(model, part))
    import openvino

    model.set_rt_info(text, [KEY])
    half = meta["precision"] in ("bf16", "f16")
    write_whole_files(path, lambda part: openvino.save_model(model, part, compress_to_fp16=half))


def reopened(path: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a file that was written, and its metadata with more of that."""
    return _read(path), {**Session(path).meta, **more}


def _read(path: Path) -> Any:
    if path.suffix == ".onnx":
        import onnx

        return onnx.load(path)
    import openvino

    return openvino.Core().read_model(path)


def _operations(model: Any) -> list[tuple[str, str]]:
    """Names and types of a model's operations."""
    if hasattr(model, "graph"):
        return [(node.name, node.op_type) for node in model.graph.node]
    nodes = [(node.get_friendly_name(), node.get_type_name()) for node in model.get_ordered_ops()]
    return [(name, kind) for name, kind in nodes if kind != "Constant"]


def _halved(model: Any, to: str) -> Any:
    if not hasattr(model, "graph"):  # OpenVINO's are compressed when they are saved
        return model
    from onnxruntime.transformers.float16 import convert_float_to_float16

    outside = [name for name, _ in _operations(model) if not MODULE.match(name)]
    return convert_float_to_float16(
        model, keep_io_types=True, node_block_list=outside, disable_shape_infer=True
    )
