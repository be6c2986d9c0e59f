"""Losses that do not depend on how many processes share the images of a step (``global_losses``).

MMDetection divides the losses of anchors, regions and masks by how many of them a process has, and
draws them by random numbers that all its images share. Here they are divided by the mean of all
processes, and each image has random numbers of its own, from the iteration and its objects.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import PseudoSampler, RandomSampler
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmconvnext.errors import ConfigError


class GlobalAnchors:
    """Beside an ``AnchorHead``: its losses are divided by a mean of all processes."""

    def get_targets(self, anchors: list[list[Tensor]], *args: Any, **kwargs: Any) -> tuple:
        """Compute the targets; the fifth of them is what losses are divided by."""
        targets = super().get_targets(anchors, *args, **kwargs)
        count = torch.tensor(float(targets[4]), device=anchors[0][0].device)
        return (*targets[:4], reduce_mean(count).item(), *targets[5:])


class GlobalRegions:
    """Beside a head of regions: its losses are divided by a mean of all processes."""

    def loss_and_target(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Compute losses; the first argument has a row for each region that divides them."""
        found = super().loss_and_target(*args, **kwargs)
        predicted = next(iter((*args, *kwargs.values())))
        count = len(predicted)
        share = count / reduce_mean(predicted.new_tensor(float(count))).clamp(min=1e-6)
        for losses in (each for each in found.values() if isinstance(each, dict)):
            losses.update({k: v * share for k, v in losses.items() if k.startswith("loss")})
        return found


class DrawsByImage:
    """Beside a ``RandomSampler``: each image has random numbers of its own."""

    def sample(self, assigned: Any, predicted: Any, objects: Any, **kwargs: Any) -> Any:
        """Sample as the iteration and the image's objects say."""
        boxes = get_box_tensor(objects.bboxes).float().cpu().numpy()
        iteration = MessageHub.get_current_instance().runtime_info.get("iter", 0)
        before = torch.get_rng_state()
        # not torch.manual_seed, which seeds the GPU, too
        torch.default_generator.manual_seed(
            zlib.crc32(np.ascontiguousarray(boxes).tobytes(), iteration)
        )
        try:
            return super().sample(assigned, predicted, objects, **kwargs)
        finally:
            torch.set_rng_state(before)


# What MMDetection computes in one of these, the first that fits, and what goes beside it.
KINDS: tuple[tuple[type, str, type], ...] = (
    (AnchorHead, "get_targets", GlobalAnchors),
    (BBoxHead, "loss_and_target", GlobalRegions),
    (FCNMaskHead, "loss_and_target", GlobalRegions),
)


def use_global_losses(model: nn.Module) -> None:
    """Let a two-stage detector's losses be those of all processes together, in place.

    Raises:
        ConfigError: a head or a sampler is not one of those for which it is known how.
    """
    heads = list(_heads(model))
    if not heads:
        raise ConfigError(f"global_losses: {type(model).__name__} has no anchors and no regions")
    for name, head in heads:
        for kind, method, beside in KINDS:
            # a subclass that computes it by itself may divide by something else
            if isinstance(head, kind) and getattr(type(head), method) is getattr(kind, method):
                _put_beside(head, beside)
                break
        else:
            raise ConfigError(
                f"global_losses: {name} is a {type(head).__name__}, whose losses are not known to "
                "be the same on any number of processes; Mask R-CNN, Cascade R-CNN, RetinaNet and "
                "what has their heads are. Leave global_losses out for this detector"
            )
    for name, module in model.named_modules():
        samplers = [getattr(module, "sampler", None), getattr(module, "bbox_sampler", None)]
        for sampler in _flat(samplers):
            if type(sampler) is RandomSampler:
                _put_beside(sampler, DrawsByImage)
            elif not isinstance(sampler, PseudoSampler):
                raise ConfigError(
                    f"global_losses: {name} draws by {type(sampler).__name__}, not RandomSampler"
                )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that compute losses, by name."""
    for name, module in model.named_modules():
        if hasattr(module, "loss_by_feat") or hasattr(module, "loss_and_target"):
            yield name, module


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        elif value is not None and not isinstance(value, Mapping):
            yield value


def _put_beside(instance: Any, first: type) -> None:
    """Let an object's class inherit from another one before its own."""
    own = type(instance)
    instance.__class__ = type(own.__name__, (first, own), {"__module__": own.__module__})
