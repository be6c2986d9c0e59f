"""What any detector costs: by the paper's protocol or, where that has no place, as it predicts."""

from __future__ import annotations

from copy import deepcopy

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.analysis.flops import (
    IN_CHANNELS,
    OPERATIONS_PER_MULTIPLY_ADD,
    SHAPE,
    Cost,
    FlopsError,
    OtherProtocolError,
    Part,
    build_detector,
    count_flops,
    has_matrix,
    named_parts,
    num_params,
)
from mmconvnext.engine.config import drop_pretrained


def count_config(cfg: Config, shape: tuple[int, int] = SHAPE) -> Cost:
    """Build the model of a config and count it.

    See :func:`mmconvnext.analysis.flops.count_flops` for the protocol of the paper; a detector that
    has no place in it is counted in a real prediction.
    """
    detector = build_detector(cfg)
    in_channels = cfg.model.get("backbone", {}).get("in_channels", IN_CHANNELS)
    try:
        return count_flops(detector, shape, in_channels=in_channels)
    except OtherProtocolError as error:
        return count_prediction(cfg, shape, str(error))


def count_prediction(cfg: Config, shape: tuple[int, int], reason: str) -> Cost:
    """Count the multiply-adds of one prediction on the CPU, with random weights and image.

    Args:
        cfg: of a detector.
        shape: height and width of the image in pixels.
        reason: why the paper's protocol does not apply, in a sentence.

    Raises:
        FlopsError: the detector cannot predict.
    """
    cfg = deepcopy(cfg)
    drop_pretrained(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmdet")):
        detector = MODELS.build(cfg.model).eval()
    size = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
    sample = DetDataSample(metainfo={**size, "scale_factor": (1.0, 1.0)})
    image = torch.randn(1, cfg.model.backbone.get("in_channels", IN_CHANNELS), *shape)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _Prediction(detector)(image, sample)
    except Exception as error:  # a model is anybody's code: anything can go wrong in it
        raise FlopsError(
            f"{reason}; and its prediction fails: {type(error).__name__}: {error}"
        ) from error
    counts = {
        name.removeprefix(f"{_Prediction.__name__}.detector."): sum(ops.values())
        // OPERATIONS_PER_MULTIPLY_ADD
        for name, ops in counter.get_flop_counts().items()
    }
    parts = [
        Part(name, num_params(module), counts.get(name, 0))
        for name, module in named_parts(detector)
    ]
    return Cost(
        shape=shape,
        params=num_params(detector),
        flops=counts["Global"],
        parts=tuple(part for part in parts if part.params or part.flops),
        protocol=_protocol(detector, counts, shape, reason),
    )


class _Prediction(nn.Module):
    """A prediction as a forward pass: the counter tells modules apart within one only."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, sample: DetDataSample) -> None:
        self.detector.predict(image, [sample], rescale=False)


def _protocol(
    detector: nn.Module, counts: dict[str, int], shape: tuple[int, int], reason: str
) -> str:
    silent = [
        name for name, each in detector.named_modules() if has_matrix(each) and name not in counts
    ]
    text = (
        "multiply-adds of convolutions and matrix products of one real prediction on an image of "
        f"{shape[0]}x{shape[1]} (height x width), with random weights: what follows proposals "
        f"depends on how many there are. Not the paper's protocol: {reason}"
    )
    if silent:
        text += f". Not counted, or of the training alone: {len(silent)} layers, "
        text += ", ".join(silent[:3]) + ", ..." * (len(silent) > 3)
    return text
