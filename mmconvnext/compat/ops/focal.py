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

_SMALLEST = torch.finfo(torch.float32).tiny  # FLT_MIN, under which mmcv clips before the logarithm


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=_SMALLEST).log()


def _weight_of(target: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Each sample's class weight, (n, 1), or 1; the background, where mmcv errs, weighs 1."""
    if not weight.numel():
        return 1.0
    is_class = (target >= 0) & (target < len(weight))
    weights = widened(weight)[target.clamp(0, len(weight) - 1)].to(dtype)
    return torch.where(is_class, weights, 1.0)[:, None]


def _is_positive(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def _sigmoid_terms(input, target, weight, alpha) -> tuple[Tensor, ...]:
    """What is positive, the probability of what is true and of its opposite, and the factors."""
    p = widened(input).sigmoid()
    positive = _is_positive(target, input.shape[1])
    factor = torch.full_like(p, 1 - alpha).masked_fill(positive, alpha)
    factor = factor * _weight_of(target, weight, p.dtype)
    return positive, torch.where(positive, p, 1 - p), torch.where(positive, 1 - p, p), factor


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha) -> None:
    """Write the loss of each sample and class, (n, c), into ``output``."""
    _, p, q, factor = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-factor * q**gamma * _log(p))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha) -> None:
    """Write the derivative of each loss by its logit, (n, c), into ``grad_input``."""
    positive, p, q, factor = _sigmoid_terms(input, target, weight, alpha)
    grad = factor * q**gamma * (gamma * p * _log(p) - q)
    grad_input.copy_(torch.where(positive, grad, -grad))


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha) -> None:
    """Write each sample's loss, (n,), into ``output``."""
    p = widened(input).gather(1, target.clamp(min=0)[:, None])  # of class 0 where there is none
    loss = -alpha * (1 - p) ** gamma * _log(p) * _weight_of(target, weight, p.dtype)
    output.copy_(torch.where(target >= 0, loss[:, 0], 0))


def softmax_focal_loss_backward(input, target, weight, buff, grad_input, gamma, alpha) -> None:
    """Write each loss's derivative by its logits, (n, c); ``buff`` (n,) gets what these share."""
    p = widened(input).gather(1, target.clamp(min=0)[:, None])
    shared = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    shared = torch.where(target[:, None] >= 0, shared * _weight_of(target, weight, p.dtype), 0)
    buff.copy_(shared[:, 0])
    grad_input.copy_(shared * (_is_positive(target, input.shape[1]).to(p.dtype) - widened(input)))
