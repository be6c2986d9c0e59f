import numpy as np
import pytest
import torch
from mmcv.ops import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from torch import Tensor

from tests.compat.which_mmcv import stand_in_only

pytestmark = stand_in_only("its focal losses have no kernel for the CPU")

TARGET = torch.tensor([0, 1, 2, 3, 3, 0, 2])  # 3 is the background of three classes
WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
SETTINGS = [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)]


def logits(classes: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(7, classes, generator=generator, dtype=torch.float64) * 3).to(dtype)


def sigmoid_loss(x: Tensor, target: Tensor, gamma: float, alpha: float, weight=None) -> Tensor:
    """mmcv's formula on autograd."""
    p, positive = x.sigmoid(), torch.nn.functional.one_hot(target, 4)[:, :3].bool()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * p.log(),
        -(1 - alpha) * p**gamma * (1 - p).log(),
    )
    weights = 1 if weight is None else torch.cat([weight, weight.new_ones(1)])[target, None]
    return loss * weights


@pytest.mark.parametrize(("gamma", "alpha"), SETTINGS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoid_focal_loss_equals_mmcvs_formula(gamma, alpha, weight, reduction):
    own, theirs = logits().requires_grad_(), logits().requires_grad_()
    every = sigmoid_focal_loss(own, TARGET, gamma, alpha, weight, "none")
    expected = sigmoid_loss(theirs, TARGET, gamma, alpha, weight)
    torch.testing.assert_close(every, expected, rtol=1e-7, atol=0)
    loss = sigmoid_focal_loss(own, TARGET, gamma, alpha, weight, reduction)
    expected = expected.sum() / (len(TARGET) if reduction == "mean" else 1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(own.grad, theirs.grad)


def softmax_loss(x: Tensor, target: Tensor, gamma: float, alpha: float, weight=None) -> Tensor:
    """mmcv's formula on autograd."""
    p = x.softmax(1)[torch.arange(len(x)), target.clamp(min=0)]
    loss = -alpha * (1 - p) ** gamma * p.log()
    if weight is not None:
        loss = loss * weight[target.clamp(min=0)]
    return loss * (target >= 0)


@pytest.mark.parametrize(("gamma", "alpha"), SETTINGS)
@pytest.mark.parametrize("weight", [None, torch.arange(1.0, 5).double()], ids=["", "weighted"])
@pytest.mark.parametrize("ignored", [False, True])
def test_softmax_focal_loss_equals_mmcvs_formula(gamma, alpha, weight, ignored):
    target = torch.where(TARGET == 1, -1, TARGET) if ignored else TARGET
    own, theirs = logits(4).requires_grad_(), logits(4).requires_grad_()
    loss = softmax_focal_loss(own, target, gamma, alpha, weight, "none")
    expected = softmax_loss(theirs, target, gamma, alpha, weight)
    torch.testing.assert_close(loss, expected)
    # mmcv's backward takes one gradient for all losses, that of their sum
    softmax_focal_loss(own, target, gamma, alpha, weight, "sum").backward()
    expected.sum().backward()
    torch.testing.assert_close(own.grad, theirs.grad)
    assert own.grad[1].any() != ignored


@pytest.mark.parametrize(
    ("function", "losses", "slopes"),
    [
        (sigmoid_focal_loss, [[0.75, 0.25]], [[0.75, -0.25]]),
        (softmax_focal_loss, [0.25], [[0.25, -0.25]]),
    ],
)
def test_logits_far_out_give_finite_losses_and_gradients(function, losses, slopes):
    x = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = function(x, torch.tensor([1]), 2.0, 0.25, None, "none")
    np.testing.assert_allclose(loss.detach(), np.array(losses) * 87.33655, rtol=1e-6)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad, slopes, rtol=1e-6)


@pytest.mark.parametrize("layer", [SigmoidFocalLoss(2.0, 0.25), SoftmaxFocalLoss(2.0, 0.25)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_full(layer, dtype):
    half = logits(4, dtype).requires_grad_()
    full = half.detach().double().requires_grad_()
    loss, expected = layer(half, TARGET), layer(full, TARGET)
    loss.backward()
    expected.backward()
    assert loss.dtype == half.grad.dtype == dtype
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps / 8}
    torch.testing.assert_close(loss.double(), expected, **tolerance)
    torch.testing.assert_close(half.grad.double(), full.grad, **tolerance)


@pytest.mark.parametrize("function", [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_no_samples_at_all(function, weight):
    x = logits()[:0].requires_grad_()
    loss = function(x, TARGET[:0], 2.0, 0.25, weight, "sum")
    assert loss.item() == 0
    loss.backward()
    assert x.grad.shape == (0, 3)
