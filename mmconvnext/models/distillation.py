"""Distillation: a two-stage detector learns from a larger one what the ground truth does not say.

The student stays what it is: the teacher is no part of its modules, its state dict or its
optimizer, and adds losses to its own. Which teacher: :mod:`mmconvnext.engine.distillation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmconvnext.errors import ConfigError

EPS = 1e-6  # beside the variance of a channel, which may be dead


@MODELS.register_module()
class PKDLoss(nn.Module):
    """1 - Pearson's correlation of student's and teacher's features, the mean over channels.

    "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient"
    (Cao et al., NeurIPS 2022, arXiv 2207.02039): each channel is brought to zero mean and unit
    variance over a batch's pixels, in both, and half of the mean squared difference is taken. What
    the magnitudes of two detectors' features are does not matter. Published for two-stage
    detectors: ``loss_weight=6`` for each of FPN's levels of stride 4 to 32.
    """

    def __init__(self, loss_weight: float = 6.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare features (N, C, H, W) of one level."""
        return self.loss_weight * F.mse_loss(_standardised(student), _standardised(teacher)) / 2


def _standardised(features: Tensor) -> Tensor:
    features = features.float()
    variance, mean = torch.var_mean(features, (0, 2, 3), correction=0, keepdim=True)
    return (features - mean) * torch.rsqrt(variance + EPS)


@MODELS.register_module()
class SoftTargetLoss(nn.Module):
    """Divergence of a student's classes from the teacher's, the mean over regions.

    "Learning Efficient Object Detection Models with Knowledge Distillation" (Chen et al., NeurIPS
    2017), section 3.2: the cross entropy with the teacher's probabilities in which the background
    has more weight, here less the teacher's own entropy, which has no gradient: 0 where both agree.

    Args:
        temperature: divides the logits (Hinton et al., arXiv 1503.02531); the loss is multiplied by
            its square. Chen et al. found 1 best for detection.
        background_weight: of the background, the other classes having 1; Chen et al.'s is 1.5.
            With another than 1 agreement is not the minimum: the background is favoured.
        loss_weight: multiplies the loss.
    """

    def __init__(
        self, temperature: float = 1.0, background_weight: float = 1.5, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"SoftTargetLoss: temperature={temperature} must be greater than 0")
        self.temperature, self.background_weight = temperature, background_weight
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits (n, classes + 1), those of the background last."""
        given, wanted = (
            (logits.float() / self.temperature).log_softmax(1) for logits in (student, teacher)
        )
        divergence = wanted.exp() * (wanted - given)
        total = divergence.sum() + (self.background_weight - 1) * divergence[:, -1].sum()
        return self.loss_weight * self.temperature**2 * total / max(len(student), 1)


def stages_of(detector: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The RoI extractor and the box head of each stage of a two-stage detector.

    Raises:
        ConfigError: it is none, or its boxes are not of regions' features and a box head alone.
    """
    roi_head = getattr(detector, "roi_head", None)
    kinds = (StandardRoIHead, CascadeRoIHead)
    known = [kind._bbox_forward for kind in kinds]
    if getattr(type(roi_head), "_bbox_forward", None) not in known or roi_head.with_shared_head:
        what = f"the RoI head {type(roi_head).__name__}" if roi_head else "no RoI head"
        raise ConfigError(
            f"{type(detector).__name__} has {what}; distillation is for Faster, Mask and Cascade "
            "R-CNN, student and teacher, and detectors that compute their boxes as these do"
        )
    parts = (roi_head.bbox_roi_extractor, roi_head.bbox_head)
    return list(zip(*(p if isinstance(p, nn.ModuleList) else [p] for p in parts), strict=True))


class Teacher:
    """A frozen detector and the losses by which another learns from it; no module of the other.

    Args:
        model: the teacher; put into evaluation mode, without gradients.
        feature: compares features of one level, or None.
        logits: compares logits of box heads, or None.
    """

    def __init__(
        self, model: nn.Module, feature: nn.Module | None, logits: nn.Module | None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.feature, self.logits = feature, logits

    def __deepcopy__(self, memo: dict) -> Teacher:
        """Copies of the student (EMA, the validation's loss) need no teacher of their own."""
        return self

    def losses(
        self, images: Tensor, seen: Sequence[Mapping[str, Any]], weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """What the student is told beside its own losses.

        Args:
            images: (N, 3, H, W), as the student has them.
            seen: of each of its stages features, regions and logits, see :func:`recorded`.
            weights: of a cascade's stages, else None.
        """
        losses = {}
        with torch.no_grad():
            features = self.model.extract_feat(images)
        if self.feature is not None:
            pairs = zip(seen[0]["features"], features, strict=False)  # regions use not all levels
            losses["loss_distill_feature"] = sum(self.feature(own, other) for own, other in pairs)
        if self.logits is None:
            return losses
        # Stage i learns from stage i, which was trained at the same IoU as a single one is at first
        for index, (own, (extractor, head)) in enumerate(
            zip(seen, stages_of(self.model), strict=False)
        ):
            if "logits" not in own:  # a cascade that ran out of regions
                break
            with torch.no_grad():
                pooled = extractor(features[: extractor.num_inputs], own["regions"])
                wanted = head(pooled)[0]
            loss, name = self.logits(own["logits"], wanted), "loss_distill_logits"
            losses[name if weights is None else f"s{index}.{name}"] = (
                loss if weights is None else weights[index] * loss
            )
        return losses


@contextmanager
def recorded(detector: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """What a detector's stages see: FPN's features, regions (n, 5), and their logits."""
    seen, handles = [], []
    for extractor, head in stages_of(detector):
        seen.append(stage := {})
        handles += [
            extractor.register_forward_hook(
                lambda _, given, __, stage=stage: stage.update(features=given[0], regions=given[1])
            ),
            head.register_forward_hook(
                lambda _, __, made, stage=stage: stage.update(logits=made[0])
            ),
        ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class DistilledDetector:
    """Beside a two-stage detector's own class: what its teacher tells is added to its losses."""

    teacher: Teacher

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Compute the losses; those that nobody learns from, as in a validation, without it."""
        if not torch.is_grad_enabled():
            return super().loss(batch_inputs, batch_data_samples)
        with recorded(self) as seen:
            losses = super().loss(batch_inputs, batch_data_samples)
        weights = getattr(self.roi_head, "stage_loss_weights", None)
        return losses | self.teacher.losses(batch_inputs, seen, weights)


def distil(student: nn.Module, teacher: Teacher) -> None:
    """Let a detector learn from a teacher, in place; its modules and their names stay."""
    own = type(student)
    beside = (DistilledDetector, own)
    student.__class__ = type(own.__name__, beside, {"__module__": own.__module__})
    student.teacher = teacher
