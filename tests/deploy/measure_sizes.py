"""Exported detectors on ten sizes, on pictures with and without objects, and in batches.

``python -m tests.deploy.measure_sizes [NAME ...]`` exports small detectors of random weights for
ONNX Runtime and OpenVINO, and fails where one finds something else than the checkpoint: on noise
of 64 x 64 to 2000 x 3000 pixels; on a picture of one colour; where no score is high enough; with
300 objects, as many as there may be; and in batches of 1 to 8. NAME is mask, cascade, or one of
the one-stage detectors; default: all.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmconvnext.analysis.parity import compare
from mmconvnext.cli import main
from mmconvnext.deploy import export
from mmconvnext.deploy.sessions import Session
from mmconvnext.inference.detector import Detector
from tests.deploy import conftest, test_one_stage

SIZES = [
    *((64, 64), (97, 41), (160, 96), (333, 500), (480, 640)),
    *((600, 600), (800, 1216), (1080, 1920), (1500, 700), (2000, 3000)),
]
TWO_STAGE = {"mask": conftest.MASK, "cascade": conftest.CASCADE}
RESIZE = {"type": "Resize", "scale": (320, 200), "keep_ratio": True}
ALL, NOTHING, MOST = "all that is found", "no score is high enough", "300 objects"
SETTINGS = {
    ALL: {},
    NOTHING: {"model.test_cfg.score_thr": 1.0},
    MOST: {"model.test_cfg.score_thr": 0.0, "model.test_cfg.max_per_img": 300},
}
WRITE = export._onnx


def prepared(name: str, folder: Path, **changes) -> tuple[Config, Path]:
    """A detector's config, and a checkpoint of random weights."""
    path = folder / f"{name}.pth"
    if name in TWO_STAGE:
        cfg = conftest.config(TWO_STAGE[name], RESIZE)
        if not path.is_file():
            conftest.weights(cfg, path)
        changes = {key.replace("test_cfg.", "test_cfg.rcnn."): v for key, v in changes.items()}
    else:
        cfg = test_one_stage.config(name)
        if not path.is_file():
            test_one_stage.weights(cfg, path)
    cfg.merge_from_dict(changes)
    return cfg, path


def pictures() -> dict[str, np.ndarray]:
    """Noise of ten sizes, and one colour."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (9, 9, 3), np.uint8) for _ in SIZES]
    found = {
        f"{height}x{width}": cv2.resize(each, (width, height))
        for each, (height, width) in zip(noise, SIZES, strict=True)
    }
    return {**found, "one colour": np.full((300, 400, 3), 114, np.uint8)}


def measure(name: str, setting: str, folder: Path, images: list[np.ndarray]) -> int:
    """Compare a detector in a setting; give the number of faults."""
    cfg, checkpoint = prepared(name, folder, **SETTINGS[setting])
    cfg.dump(folder / "config.py")
    detector = Detector(cfg.copy(), checkpoint, batch=1)
    most = max(len(each) for each in detector.predict(images))
    onnx, faults = folder / f"{name}.onnx", 0
    for kind, file in (("onnx", onnx), ("openvino", onnx.with_suffix(".xml"))):
        arguments = ["export", folder / "config.py", checkpoint, "--to", kind, "--out", file]
        with mock.patch.object(export, "_onnx", _copy_of(onnx) if kind == "openvino" else WRITE):
            assert main([*map(str, arguments)]) == 0
        parity = compare(detector, Detector(cfg.copy(), str(file), batch=1), images)
        faults += not parity.equal or (setting == NOTHING) != (most == 0)
        print(f"{name}, {setting}, {kind}: {most} objects at most; {parity}", flush=True)
        if setting == ALL:
            faults += batches(file, images[2])
    return faults


def _copy_of(file: Path) -> Callable:
    """OpenVINO's file is made of the ONNX file: tracing takes the longest."""
    return lambda graph, path, text: shutil.copy(file, path)


def batches(file: Path, picture: np.ndarray) -> int:
    """Whether pictures of a batch of 1 to 8 have what one alone has; 1 where they do not."""
    session = Session(file)
    alone = session(picture[None])
    for count in range(2, 9):
        for one, many in zip(alone, session(np.repeat(picture[None], count, 0)), strict=True):
            if not all(np.allclose(each, one[0], atol=1e-2) for each in many):
                print(f"{file.name}: a batch of {count} is NOT EQUAL to one picture")
                return 1
    print(f"{file.name}: batches of 1 to 8 are equal")
    return 0


if __name__ == "__main__":
    init_default_scope("mmdet")
    names, images = sys.argv[1:] or [*TWO_STAGE, *test_one_stage.NAMES], [*pictures().values()]
    with tempfile.TemporaryDirectory() as made:
        faults = [measure(n, setting, Path(made), images) for n in names for setting in SETTINGS]
    sys.exit(any(faults))
