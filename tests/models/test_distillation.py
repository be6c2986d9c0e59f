"""The losses of distillation against independent computations."""

import numpy as np
import pytest
import torch
from mmdet.models.losses import KnowledgeDistillationKLDivLoss

from mmconvnext.errors import ConfigError
from mmconvnext.models.distillation import PKDLoss, SoftTargetLoss


@pytest.fixture
def features():
    torch.manual_seed(0)
    student = torch.randn(2, 5, 3, 4, requires_grad=True)
    return student, torch.randn(2, 5, 3, 4) + 0.5 * student.detach()


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 3 * torch.randn(6, 4), 3 * torch.randn(6, 4)


def test_pkd_is_what_pearson_leaves_of_one(features):
    student, teacher = (f.detach().double().transpose(0, 1).flatten(1).numpy() for f in features)
    pairs = zip(student, teacher, strict=True)
    expected = 6 * np.mean([1 - np.corrcoef(*pair)[0, 1] for pair in pairs])
    assert PKDLoss()(*features).item() == pytest.approx(expected, rel=1e-4)


def test_pkd_does_not_see_magnitudes(features):
    student, teacher = features
    loss = PKDLoss(loss_weight=1.0)
    assert loss(student, 7 * student.detach() - 3).item() < 1e-5
    assert loss(student, -student.detach()).item() == pytest.approx(2, rel=1e-4)
    torch.testing.assert_close(loss(student, 5 * teacher + 2), loss(student, teacher))


def test_pkd_of_a_dead_channel_and_of_half_precision_is_finite(features):
    student, teacher = features
    dead = student * torch.tensor([0.0, 1, 1, 1, 1]).view(1, -1, 1, 1)
    PKDLoss()(dead, teacher).backward()
    assert student.grad.isfinite().all()
    assert student.grad[:, 1:].abs().sum() > 0
    large = (1000 * teacher).half()
    assert PKDLoss()(large, large).dtype == torch.float32
    assert PKDLoss()(large, large).isfinite()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_are_the_divergence_of_mmdetection(logits, temperature):
    ours = SoftTargetLoss(temperature, background_weight=1.0, loss_weight=0.5)(*logits)
    # which is a mean over classes, too
    theirs = KnowledgeDistillationKLDivLoss(loss_weight=0.5 * 4, T=temperature)(*logits)
    torch.testing.assert_close(ours, theirs)


def test_soft_targets_have_the_gradient_of_the_weighted_cross_entropy(logits):
    student, teacher = (each.clone().requires_grad_() for each in logits)
    loss = SoftTargetLoss(background_weight=1.5)
    (ours,) = torch.autograd.grad(loss(student, teacher.detach()), student)
    weights = torch.tensor([1, 1, 1, 1.5])  # MMDetection's background is the last
    published = -(weights * teacher.detach().softmax(1) * student.log_softmax(1)).sum(1).mean()
    (expected,) = torch.autograd.grad(published, student)
    torch.testing.assert_close(ours, expected)
    assert loss(student, student.detach()).abs() < 1e-6


def test_soft_targets_of_no_region_are_zero():
    student = torch.zeros(0, 4, requires_grad=True)
    loss = SoftTargetLoss()(student, torch.zeros(0, 4))
    loss.backward()
    assert loss == 0


def test_a_temperature_below_zero_is_refused():
    with pytest.raises(ConfigError, match="temperature=-1 must be greater than 0"):
        SoftTargetLoss(temperature=-1)
