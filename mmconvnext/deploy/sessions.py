"""Exported files, run by ONNX Runtime, OpenVINO or torch; only the last one imports torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmconvnext.errors import CheckpointError, MissingCheckpointError, UnsafeCheckpointError

KEY = "mmconvnext"  # of the metadata in a file
SUFFIXES = {"torch-export": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
CAPABILITIES = {"bf16": "BF16", "f16": "FP16", "int8": "INT8"}  # precisions, as OpenVINO's CPU says

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[["NDArray"], Sequence["NDArray"]]


def is_exported(path: object) -> bool:
    """Whether a path is that of an exported file, by its name."""
    return str(path).endswith((*SUFFIXES.values(),))


class Session:
    """An exported detector.

    Args:
        path: of a file of ``mmconvnext export``.
        trusted: whether it may run code, as torch's reader of ``.pt2`` lets files do.
        cache: a folder where OpenVINO keeps what it compiles, and from which it starts sooner.

    Attributes:
        meta: what is written in it: ``classes``, ``mask_threshold``, ``config``, versions.

    Raises:
        CheckpointError: it is none, is not trusted, or the package that runs it is missing.
    """

    def __init__(
        self, path: str | Path, trusted: bool = False, cache: str | Path | None = None
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingCheckpointError(f"there is no exported detector {path}")
        if path.suffix == ".pt2" and not trusted:
            raise UnsafeCheckpointError(
                f"{path}: files of torch.export can bring code that is run; if it is your "
                "own, allow it with --allow-imports (in Python: cfg.allow_imports = True), or "
                "export to ONNX"
            )
        try:
            text, self._run = _OPEN[path.suffix](path, cache)
            self.meta: dict[str, Any] = json.loads(text)
        except ImportError as error:
            raise CheckpointError(f"{path} needs a package: {error}; install it by pip") from error
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{path} is no file of `mmconvnext export`: {reason}") from error

    def __call__(self, pictures: NDArray) -> Sequence[NDArray]:
        """Detect in pictures (B, H, W, 3), uint8 RGB: boxes, scores, labels and maybe masks.

        See :meth:`mmconvnext.deploy.graph.TwoStageGraph.forward`.
        """
        import numpy as np

        return self._run(np.ascontiguousarray(pictures))


def open_session(path: str | Path, trusted: bool = False) -> Session:
    """The :class:`Session` of a file: the same one as long as the file does not change."""
    path = Path(path)
    return _opened(path, trusted, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=2)
def _opened(path: Path, trusted: bool, changed: int) -> Session:
    return Session(path, trusted)


def _onnx(path: Path, cache: Any) -> tuple[str, Run]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    text = session.get_modelmeta().custom_metadata_map[KEY]
    return text, lambda pictures: session.run(None, {name: pictures})


def _openvino(path: Path, cache: str | Path | None) -> tuple[str, Run]:
    import openvino

    model = openvino.Core().read_model(path)
    text = model.get_rt_info([KEY]).astype(str)
    settings = precision_hint(text)
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    compiled = openvino.compile_model(model, "CPU", settings)
    return text, lambda pictures: [*compiled(pictures).values()]


def precision_hint(text: str) -> dict[str, str]:
    """What OpenVINO is asked to compute in, by a file's metadata and by what the CPU can do.

    Where the CPU has no instructions for bf16, OpenVINO 2026.4 would emulate it, many times slower
    than float32, or crash on a picture of 800 x 1216.
    """
    precision = json.loads(text)["precision"]
    if line := unsupported(precision):
        _log_once(line)
    in_float32 = line or precision == "int8"  # of int8, what is not quantised
    return {"INFERENCE_PRECISION_HINT": "f32" if in_float32 else precision}


def unsupported(precision: str) -> str | None:
    """What has to be said of a file's precision where OpenVINO's CPU cannot compute in it."""
    import openvino

    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision not in CAPABILITIES or CAPABILITIES[precision] in known:
        return None
    return (
        f"this CPU has no instructions for {precision} (OpenVINO: {', '.join(known)}): the file is "
        "computed in float32; speed and AP are not those of CPUs that have them"
    )


@lru_cache
def _log_once(line: str) -> None:
    logging.getLogger(__name__).warning(line)


def _torch(path: Path, cache: Any) -> tuple[str, Run]:
    import torch
    import torchvision  # noqa: F401 (its operators are in the file)

    files = {f"{KEY}.json": ""}
    module = torch.export.load(path, extra_files=files).module()

    def run(pictures: NDArray) -> list[NDArray]:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(pictures))]

    return files[f"{KEY}.json"], run


_OPEN = {".pt2": _torch, ".onnx": _onnx, ".xml": _openvino}
