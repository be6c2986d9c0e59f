"""A trained detector, from a work folder or a config and a checkpoint, on any pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import mmdet.datasets
import numpy as np
import torch
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import autocast
from torch import nn

from mmconvnext.compat.checkpoint_io import read_checkpoint
from mmconvnext.crops import cropped
from mmconvnext.data.names import palette_of
from mmconvnext.deploy.exported import use_exported
from mmconvnext.deploy.sessions import is_exported
from mmconvnext.engine.advice import explain_num_classes
from mmconvnext.engine.classes import datasets_of, set_classes
from mmconvnext.engine.config import drop_pretrained, load_config, use_tta
from mmconvnext.engine.device import adapt_to_device, convolutions_to_channels_last
from mmconvnext.engine.run_dir import find_detector
from mmconvnext.engine.runner import check_checkpoint
from mmconvnext.errors import ConfigError, DataError
from mmconvnext.inference.inputs import read_image
from mmconvnext.inference.prediction import Frame, Prediction
from mmconvnext.inference.tiles import Window, merge, windows_of
from mmconvnext.weights.detector import classes_of, load_matched, match_detector

# What a picture that cannot be used raises in MMCV's and MMDetection's transforms.
UNUSABLE = (OSError, ValueError, TypeError, AttributeError, AssertionError, cv2.error)


class Part(NamedTuple):
    """A window of a picture, ready for the network."""

    frame: Frame
    size: tuple[int, int]
    window: Window
    packed: dict[str, Any]
    is_last: bool


class Detector:
    """A detector that predicts what ``tools/test.py`` does, to the last bit.

    Convolutions add in another order with other pictures in a batch: ``batch`` decides about bits.

    Args:
        config: a config, its path or name, or the work folder of a training.
        checkpoint: of the detector; a work folder has one of the best mask AP, or else the last.
        device: to run on; by default the accelerator, if there is one.
        tta: predict with test-time augmentation, by the config's ``tta_model``.
        tile: side of the tiles, in pixels, that pictures are cut into; None for whole pictures.
        batch: pictures or tiles at a time; None for as many as the config has in a test.

    Raises:
        UserError: there is no such file, it does not fit, or its classes are unknown.
    """

    def __init__(
        self,
        config: Config | str | PathLike,
        checkpoint: str | PathLike | None = None,
        *,
        device: str | None = None,
        tta: bool = False,
        tile: int | None = None,
        batch: int | None = None,
    ):
        if not isinstance(config, Config):
            config, checkpoint = find_detector(config, checkpoint)
            config = load_config(config)
        elif checkpoint is None:
            raise ConfigError("a config is given with a checkpoint")
        cfg, path = config, str(checkpoint)
        batch = cfg.test_dataloader.get("batch_size", 1) if batch is None else batch
        if batch < 1 or (tile is not None and tile < 1):
            raise ConfigError(f"batch={batch} and tile={tile} must be 1 or more")
        self.tile, self.batch = tile, batch
        self.model, self.classes, self.palette = _load(cfg, path, tta)
        self.model.to(device or get_device())
        load, *rest = get_test_pipeline_cfg(cfg)
        self._load = TRANSFORMS.build(load)
        self._pack = Compose([{**load, "type": "mmdet.LoadImageFromNDArray"}, *rest])
        self._fp16 = (cfg.get("test_cfg") or {}).get("fp16", False)

    def __call__(self, picture: Any) -> Prediction:
        """Predict on a picture: see :meth:`predict`."""
        return next(self.predict([picture]))

    def predict(
        self, pictures: Iterable[Any], faults: list[str] | None = None
    ) -> Iterator[Prediction]:
        """Predict on pictures, one after the other, as they are asked for.

        Args:
            pictures: paths, URLs, arrays (BGR), Pillow's images, or frames with a name.
            faults: gets a line for each picture that cannot be used and is left out.

        Raises:
            DataError: a picture cannot be used, and ``faults`` is None.
        """
        parts, found = self._parts(pictures, faults), []
        while batch := list(islice(parts, self.batch)):
            for part, sample in zip(batch, self._forward(batch), strict=True):
                found.append((part.window, self._prediction(part, sample.pred_instances)))
                if part.is_last:
                    yield merge(found)
                    found = []

    def _parts(self, pictures: Iterable[Any], faults: list[str] | None) -> Iterator[Part]:
        for picture in pictures:
            frame = picture if isinstance(picture, Frame) else _named(picture)
            try:
                image = read_image(frame.picture, self._load)
                if not isinstance(frame.picture, str | Path) or "://" in str(frame.picture):
                    frame = frame._replace(picture=image)
                size = image.shape[1::-1]
                *windows, last = windows_of(size, self.tile)
                for window in [*windows, last]:
                    left, top, right, bottom = window
                    cut = np.ascontiguousarray(image[top:bottom, left:right])
                    packed = self._pack({"img": cut, "img_id": 0})
                    yield Part(frame, size, window, packed, window is last)
            except (DataError, *UNUSABLE) as error:
                reason = f"cannot be predicted on: {type(error).__name__}: {error}"
                fault = str(error) if isinstance(error, DataError) else f"{frame.name} {reason}"
                if faults is None:
                    raise DataError(fault) from error
                faults.append(fault)

    def _forward(self, parts: Sequence[Part]) -> list[Any]:
        """Samples with what the network finds on some parts."""
        with torch.no_grad(), autocast(enabled=self._fp16):
            return self.model.test_step(pseudo_collate([part.packed for part in parts]))

    def _prediction(self, part: Part, instances: Any) -> Prediction:
        found, (left, top, *_) = instances.cpu().numpy(), part.window
        masks = found.get("masks")
        crops = None if masks is None else [cropped(mask, left, top) for mask in masks]
        boxes = found.bboxes + np.float32([left, top, left, top])
        arrays = boxes, found.scores, found.labels, crops
        return Prediction(part.frame, part.size, *arrays, self.classes, self.palette)


def _named(picture: Any) -> Frame:
    is_path = isinstance(picture, str | PathLike)
    return Frame(str(picture) if is_path else "picture", str(picture) if is_path else picture)


def _load(cfg: Config, path: str, tta: bool) -> tuple[nn.Module, Sequence[str], Sequence]:
    """Build a config's detector, with a checkpoint's classes, and load every tensor of that.

    Returns:
        The detector, the names of its labels and their colours.
    """
    check_checkpoint(path)
    if is_exported(path):
        if tta:
            use_tta(cfg)
        classes = use_exported(cfg, path)
        return MODELS.build(cfg.model).eval(), classes, palette_of(len(classes))
    checkpoint = read_checkpoint(path)
    if classes := classes_of(checkpoint):
        set_classes(cfg, classes)
    else:
        classes = _classes_of_config(cfg)
    adapt_to_device(cfg)
    drop_pretrained(cfg)
    if tta:
        use_tta(cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    convolutions_to_channels_last(model)
    named = SimpleNamespace(metainfo={"classes": classes}, ann_file="the test data set")
    if fault := explain_num_classes(model, named):
        raise ConfigError(fault)
    matched = match_detector(model, checkpoint, path, must_fill=True)
    load_matched(model, matched.state_dict, matched.backbones, strict=True)
    palette = ((checkpoint.get("meta") or {}).get("dataset_meta") or {}).get("palette") or ()
    return model, classes, palette if len(palette) == len(classes) else palette_of(len(classes))


def _classes_of_config(cfg: Config) -> Sequence[str]:
    for dataset in datasets_of(cfg, "test"):
        default = getattr(getattr(mmdet.datasets, str(dataset.get("type")), None), "METAINFO", {})
        classes = {**default, **(dataset.get("metainfo") or {})}.get("classes")
        if classes:
            return classes
    raise ConfigError(
        f"neither the checkpoint nor {cfg.filename} names the classes; give them with "
        "--cfg-options \"classes=('cat','dog')\""
    )
