"""Detectors as they are deployed: by PyTorch, and by the runtimes of exported files.

Nothing large is imported here: what a form needs is part of its start-up and of its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import status_bytes

SHAPE = (800, 1216)  # of pictures, which the configs' Resize then leaves as they are
CHECKPOINT, PICTURES = "detector.pth", "pictures.npy"


class Form:
    """A detector in one of its forms; nothing is opened before the first picture.

    Args:
        folder: what :class:`Prepared` wrote.
        files: of the form, in the folder; all of them are its size.
        needs: a package.
        threads: cores that it may use.
    """

    def __init__(self, folder: str, files: Sequence[str], needs: str, threads: int) -> None:
        if importlib.util.find_spec(needs) is None:
            raise ImportError(f"{needs} is not installed")
        if hasattr(os, "sched_setaffinity"):  # runtimes count the cores that they may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        self.folder, self.files, self._facts = Path(folder), files, {}

    def open(self) -> Callable[[np.ndarray], Any]:
        """Give what makes a prediction of a picture, BGR."""
        raise NotImplementedError

    def check(self) -> dict[str, np.ndarray]:
        """Open it, timed with the first picture, and give what is found on all."""
        pictures = np.load(self.folder / PICTURES)
        start = time.perf_counter()
        self.detector = self.open()
        self.detector(pictures[0])
        self._facts = {
            "images": len(pictures),
            "startup": time.perf_counter() - start,
            "resident": status_bytes("VmHWM") or 0,
            "size": sum((self.folder / name).stat().st_size for name in self.files),
        }
        self._pictures, arrays = pictures, {}
        for index, picture in enumerate(pictures):
            found = self.detector(picture)
            for kind in ("boxes", "scores", "labels"):
                arrays[f"{kind} {index}"] = getattr(found, kind)
            arrays[f"masks {index}"] = np.packbits(found.masks, axis=-1)
        return arrays

    def facts(self) -> dict[str, float]:
        """Size, and what :meth:`check` measured: seconds of the start-up, memory after it."""
        return self._facts

    def run(self) -> None:
        """Predict on all pictures, to each object's part of a mask of the picture's size."""
        for picture in self._pictures:
            [*self.detector(picture).crops]


class Eager(Form):
    """A checkpoint in PyTorch, as ``mmconvnext predict`` has it.

    Args:
        config: name of ours.
        peer: of MMDetection's, which gets the same weights and MMDetection's own functions.
        compiled: whether ``torch.compile`` is used for backbone and neck.
    """

    def __init__(
        self, config: str, peer: str | None = None, compiled: bool = False, **form: Any
    ) -> None:
        super().__init__(needs="mmpretrain" if peer else "torch", **form)
        self.config, self.peer, self.compiled = config, peer, compiled

    def open(self) -> Callable[[np.ndarray], Any]:
        """Build it and load its weights."""
        from mmconvnext.engine.config import load_config
        from mmconvnext.inference.detector import Detector

        cfg = load_config(self.config)
        detector = Detector(cfg, self.folder / CHECKPOINT, device="cpu", batch=1)
        if self.peer:
            self._use_peer(cfg, detector)
        if self.compiled:
            detector.model.backbone.compile()
            detector.model.neck.compile()
        return detector

    def _use_peer(self, cfg: Any, detector: Any) -> None:
        from mmengine.registry import DefaultScope

        from benchmarks.detector import build, copy_weights
        from mmconvnext.compat.ops import roi_align_cpu
        from mmconvnext.engine.config import load_config

        with DefaultScope.overwrite_default_scope("mmdet"):
            peer = build(load_config(self.peer), cfg.model.test_cfg).eval()
        copy_weights(detector.model, peer)
        detector.model = peer
        roi_align_cpu.pooling_matrices = lambda *_: None


class Exported(Form):
    """A file of ``mmconvnext export`` or ``quantize``."""

    def open(self) -> Callable[[np.ndarray], Any]:
        """Open the file by its runtime."""
        from mmconvnext.runtime import Detector

        return Detector(self.folder / self.files[0], trusted=True)


class Prepared:
    """A detector with random weights, pictures, and its files, in a folder.

    Args:
        config: name of ours.
        folder: to be written to.
        exported: file names, and ``--to`` of ``mmconvnext export``.
        quantized: of these, each with ``--to`` of ``mmconvnext quantize`` and the name of its file.
            Calibrated on the pictures.
        data_root: of COCO.
        images: of val2017, resized to :data:`SHAPE`.
    """

    def __init__(
        self,
        config: str,
        folder: str,
        exported: Mapping[str, str],
        quantized: Sequence[tuple[str, str, str]],
        data_root: str,
        images: int,
    ) -> None:
        import cv2
        import torch
        from mmdet.datasets import CocoDataset
        from mmengine.registry import DefaultScope

        from benchmarks.detector import SEED, build
        from mmconvnext.cli import export
        from mmconvnext.deploy.quantize import quantize, reopened, save
        from mmconvnext.engine.config import load_config

        paths = sorted(Path(data_root, "val2017").glob("*.jpg"))[:images]
        pictures = [cv2.resize(cv2.imread(str(path)), SHAPE[::-1]) for path in paths]
        np.save(Path(folder, PICTURES), np.stack(pictures))
        cfg, checkpoint = load_config(config), Path(folder, CHECKPOINT)
        torch.manual_seed(SEED)
        with DefaultScope.overwrite_default_scope("mmdet"):
            model = build(cfg, cfg.model.test_cfg)
        meta = {"dataset_meta": CocoDataset.METAINFO}
        torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        for name, kind in exported.items():
            arguments = [config, checkpoint, "--to", kind, "--out", Path(folder, name)]
            with contextlib.redirect_stdout(io.StringIO()):
                export.run(parser.parse_args([*map(str, arguments)]))
        rgb = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
        for source, to, name in quantized:
            made = quantize(Path(folder, source), to, rgb, lambda _: {"AP": 0.0}, max_drop=0)
            save(*reopened(made.path), Path(folder, name))


class Profile:
    """Where OpenVINO's time goes in a file, by kind of layer."""

    def __init__(self, folder: str, file: str, runs: int = 3) -> None:
        import openvino

        from mmconvnext.deploy.sessions import KEY, precision_hint

        model = openvino.Core().read_model(Path(folder, file))
        settings = {"PERF_COUNT": True, **precision_hint(model.get_rt_info([KEY]).astype(str))}
        self.request = openvino.compile_model(model, "CPU", settings).create_infer_request()
        self.picture, self.runs = np.load(Path(folder, PICTURES))[:1, ..., ::-1], runs

    def facts(self) -> dict[str, float]:
        """Milliseconds of each kind of layer, of the last of some runs."""
        for _ in range(self.runs):
            self.request.infer(np.ascontiguousarray(self.picture))
        kinds: Counter[str] = Counter()
        for layer in self.request.get_profiling_info():
            kinds[layer.node_type] += layer.real_time.total_seconds() * 1e3
        return dict(kinds)
