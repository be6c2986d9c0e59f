"""An exported detector in the place of a model, for tests and predictions by MMDetection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmconvnext.deploy.sessions import is_exported, open_session
from mmconvnext.errors import ConfigError
from mmconvnext.weights.detector import checkpoint_classes


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """A file of ``mmconvnext export``, which takes pictures as they are: no pipeline resizes them.

    Args:
        file: its path.
        trusted: whether it may run code, see :class:`mmconvnext.deploy.sessions.Session`.
    """

    def __init__(self, file: str, trusted: bool = False) -> None:
        super().__init__()
        self.session = open_session(file, trusted)
        self.num_classes = len(self.session.meta["classes"])

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DetDataSample], mode: str = "predict"
    ) -> list[DetDataSample]:
        """Detect in pictures (3, H, W), uint8 BGR; those of one size in one batch."""
        pictures = [picture.permute(1, 2, 0).flip(2).cpu().numpy() for picture in inputs]
        together = len({picture.shape for picture in pictures}) == 1
        batches = [np.stack(pictures)] if together else [picture[None] for picture in pictures]
        found = [arrays for batch in batches for arrays in zip(*self.session(batch), strict=True)]
        for sample, arrays in zip(data_samples, found, strict=True):
            sample.pred_instances = self._instances(*arrays, size=sample.ori_shape)
        return [*data_samples]

    def _instances(
        self, boxes: Any, scores: Any, labels: Any, masks: Any = None, *, size: tuple[int, int]
    ) -> InstanceData:
        from mmconvnext.models.mask_head import paste_masks  # whose import may have led to this one

        kept = scores >= 0
        found = InstanceData(
            bboxes=torch.as_tensor(boxes[kept]),
            scores=torch.as_tensor(scores[kept]),
            labels=torch.as_tensor(labels[kept]),
        )
        if masks is not None:
            masks = torch.as_tensor(masks[kept])
            if masks.dtype != torch.bool:
                masks = paste_masks(masks, found.bboxes, size, self.session.meta["mask_threshold"])
            found.masks = masks
        return found


def use_exported(cfg: Config, file: str) -> Sequence[str]:
    """Let a config test an exported file in the place of its model, in place; give its classes.

    Raises:
        UserError: it cannot be opened, or the config flips test pictures.
    """
    if "module" in cfg.model:
        raise ConfigError(f"{file} is tested without --tta: what is exported is one pass")
    trusted = cfg.get("allow_imports", False)
    cfg.model = {"type": "ExportedDetector", "file": str(file), "trusted": trusted}
    cfg.load_from = None
    pipeline = get_test_pipeline_cfg(cfg)  # the graph resizes and pads
    pipeline[:] = [each for each in pipeline if each["type"].rpartition(".")[2] != "Pad"]
    for transform in pipeline:
        if transform["type"].rpartition(".")[2] == "Resize":
            kept = {"type": transform["type"], "scale_factor": 1.0}
            transform.clear()
            transform.update(kept)
    return open_session(file, trusted).meta["classes"]


def tested_classes(cfg: Config) -> Sequence[str] | None:
    """The classes of ``cfg.load_from``; an exported file takes the place of the model."""
    if is_exported(tested := cfg.get("load_from")):
        return use_exported(cfg, tested)
    return checkpoint_classes(tested) if tested else None
