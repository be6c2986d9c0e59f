"""Focal losses, by the formulas of mmcv's CUDA kernels (compiled mmcv has none for the CPU).

``input`` is (n, c): logits for the sigmoid, probabilities for the softmax. ``target`` is (n,)
classes: anything outside 0 … c - 1 is background for the sigmoid, negative ones are ignored by the
softmax. ``weight`` is (c,) class weights, or empty; ``gamma`` the exponent of the focusing factor;
``alpha`` the weight of positives (1 - alpha that of negatives), for the softmax a factor of the
loss.
"""

import torch
from torch import Tensor

from mmconvnext.compat.ops.torchvision_ops import widened

__all__ = [
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
]

SMALLEST = torch.finfo(torch.float32).tiny  # FLT_MIN, under which mmcv clips before the logarithm


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=SMALLEST).log()


def _weight_of(target: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Return each sample's class weight, (n, 1), or 1 where no weights were given.

    A target that is no class (background) weighs 1; mmcv reads past the end of the weights there.
    """
    if not weight.numel():
        return 1.0
    is_class = (target >= 0) & (target < len(weight))
    weights = widened(weight)[target.clamp(0, len(weight) - 1)].to(dtype)
    return torch.where(is_class, weights, 1.0)[:, None]


def _is_positive(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each sample and class, (n, c), into ``output``."""
    p = widened(input).sigmoid()
    positive = -alpha * (1 - p) ** gamma * _log(p)
    negative = -(1 - alpha) * p**gamma * _log(1 - p)
    loss = torch.where(_is_positive(target, input.shape[1]), positive, negative)
    output.copy_(loss * _weight_of(target, weight, loss.dtype))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each loss by its logit, (n, c), into ``grad_input``."""
    p = widened(input).sigmoid()
    q = 1 - p
    positive = -alpha * q**gamma * (q - gamma * p * _log(p))
    negative = -(1 - alpha) * p**gamma * (gamma * q * _log(q) - p)
    grad = torch.where(_is_positive(target, input.shape[1]), positive, negative)
    grad_input.copy_(grad * _weight_of(target, weight, grad.dtype))


def _probability_of(softmax: Tensor, target: Tensor) -> Tensor:
    """Return (n, 1), the probability of each sample's class (of class 0 where there is none)."""
    return widened(softmax).gather(1, target.clamp(min=0)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write each sample's loss, (n,), into ``output``."""
    p = _probability_of(input, target)
    loss = -alpha * (1 - p) ** gamma * _log(p) * _weight_of(target, weight, p.dtype)
    output.copy_(torch.where(target >= 0, loss[:, 0], 0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each sample's loss by its logits, (n, c), into ``grad_input``.

    ``buff`` (n,) receives the part that all classes share.
    """
    p = _probability_of(input, target)
    shared = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    shared = torch.where(target[:, None] >= 0, shared * _weight_of(target, weight, p.dtype), 0)
    buff.copy_(shared[:, 0])
    is_class = _is_positive(target, input.shape[1]).to(p.dtype)
    grad_input.copy_(shared * (is_class - widened(input)))
