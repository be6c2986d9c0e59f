"""One detector at work on images: built from its config, with weights that make it detect."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import mmdet.models  # noqa: F401  registers
import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.backbone_candidate import fill
from benchmarks.comparison import BenchmarkError
from benchmarks.pipeline_candidate import BITMAPS, steps
from mmconvnext.compat.ops import roi_align_cpu
from mmconvnext.engine.config import (
    drop_pretrained,
    load_config,
    set_data_root,
)
from mmconvnext.engine.device import convolutions_to_channels_last

SEED = 0
# Of the random weights of the last layers: so that scores differ, and pass the threshold.
CLASSIFIER_STD = 0.2
MASK_STD = 0.3
CONFIGS_OF_MMDETECTION = "mmdet::"


class Detector:
    """The factory of the comparison of detectors, see :class:`benchmarks.Candidate`.

    What is timed is the loop of a test: reading and resizing each image, the detector, and what
    the metric does with its detections as they come (encoding masks), one image at a time.

    Args:
        config: a file, or ``mmdet::`` and the name of one of MMDetection's own.
        reference: our config, whose images are used and whose weights are copied where ``same``.
        same: whether it is the same network, and gets the same weights.
        ours: whether our transforms, metric, layout of weights and RoIAlign are used; else those of
            MMDetection and, where mmcv has no compiled kernels, torchvision's in their place.
        data_root: folder of COCO.
        images: how many of its validation split.
        device: in torch's words.
        scale: the long and the short side in pixels that images are resized to fit into; None for
            the config's.
    """

    def __init__(
        self,
        config: str,
        reference: str,
        same: bool,
        ours: bool,
        data_root: str,
        images: int,
        device: str,
        scale: Sequence[int] | None = None,
    ):
        with DefaultScope.overwrite_default_scope("mmdet"), _quiet():
            cfg = _load(reference)
            set_data_root(cfg, data_root)
            if scale is not None:
                _set_scale(cfg, scale)
            torch.manual_seed(SEED)
            self._model = _build(cfg)
            if config != reference:
                peer = _build(_load(config), cfg)
                if same:
                    _copy(self._model, peer)
                self._model = peer
            if not ours:
                dataset = cfg.test_dataloader.dataset
                dataset.pipeline = steps(dataset.pipeline, BITMAPS)
            self._dataset = DATASETS.build(cfg.test_dataloader.dataset)
            metric = cfg.test_evaluator if ours else {**cfg.test_evaluator, "type": "CocoMetric"}
            self._evaluator = Evaluator([METRICS.build(metric)])
            self._evaluator.dataset_meta = self._dataset.metainfo
        self._indices = range(min(images, len(self._dataset)))
        if ours:
            convolutions_to_channels_last(self._model)
        else:
            roi_align_cpu.pooling_matrices = lambda *_: None
        self._model.to(device).eval()
        self._num_detections = 0

    def run(self) -> None:
        """Go through all images."""
        for index in self._indices:
            self._detect(index)
        self._evaluator.metrics[0].results.clear()

    def check(self) -> dict[str, np.ndarray]:
        """Return what is detected, ``boxes``, ``scores``, ``labels`` and ``masks`` of each image.

        Masks are packed, eight pixels in a byte.
        """
        arrays: dict[str, np.ndarray] = {}
        self._num_detections = 0
        for index in self._indices:
            found = self._detect(index)
            self._num_detections += len(found)
            arrays[f"boxes {index}"] = found.bboxes.cpu().numpy()
            arrays[f"scores {index}"] = found.scores.cpu().numpy()
            arrays[f"labels {index}"] = found.labels.cpu().numpy()
            arrays[f"masks {index}"] = np.packbits(found.masks.cpu().numpy(), axis=-1)
        return arrays

    def facts(self) -> dict[str, float]:
        """Return the number of images, of operations, and of detections once they were checked.

        ``flops`` are those of torch's convolutions and matrix products; a multiply-add is two.
        """
        with FlopCounterMode(display=False) as counter:
            self.run()
        return {
            "images": len(self._indices),
            "flops": counter.get_total_flops(),
            "detections": self._num_detections,
        }

    @torch.no_grad()
    def _detect(self, index: int) -> Any:
        batch = pseudo_collate([self._dataset[index]])
        samples = self._model.test_step(batch)
        found = samples[0].pred_instances
        self._evaluator.process(data_samples=samples, data_batch=batch)
        return found


def _quiet() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(io.StringIO())


def _load(config: str) -> Config:
    if config.startswith(CONFIGS_OF_MMDETECTION):
        return get_config(config)
    return load_config(config)


def _set_scale(cfg: Config, scale: Sequence[int]) -> None:
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform["type"] == "Resize":
            transform["scale"] = tuple(scale)


def _build(cfg: Config, data: Config | None = None) -> nn.Module:
    """Build a detector without pretrained weights that detects as much as it may.

    Args:
        cfg: its config.
        data: whose settings of the test it gets; None for its own.
    """
    drop_pretrained(cfg)
    if data is not None:
        cfg.model.test_cfg = data.model.test_cfg
    model = MODELS.build(cfg.model)
    for name, param in model.roi_head.named_parameters():
        if "fc_cls.weight" in name:
            nn.init.normal_(param, std=CLASSIFIER_STD)
        if "conv_logits.weight" in name:
            nn.init.normal_(param, std=MASK_STD)
    return model


@torch.no_grad()
def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Give a detector our weights.

    Raises:
        BenchmarkError: its parts are not ours.
    """
    fill(theirs.backbone, ours.backbone.state_dict())
    for name, part in ours.named_children():
        if name == "backbone":
            continue
        try:
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        except (AttributeError, RuntimeError) as error:
            raise BenchmarkError(f"{name} is another than ours: {error}") from error
