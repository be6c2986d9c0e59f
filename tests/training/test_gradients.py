"""Gradients that explode from scratch on zero padding are explained once, and only then."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmconvnext.models.convnext import ConvNeXt
from mmconvnext.training.gradients import ITERATIONS, ExplodingGradientHook


def train(steps: int, padded: bool, scale: float = 1.0, bias: float = 0.0) -> ExplodingGradientHook:
    """Backward passes of a backbone on an image of which most is padding, or nothing."""
    torch.manual_seed(0)
    arch = {"depths": (1, 1, 1, 1), "widths": (8, 16, 24, 32)}
    model = nn.Module()
    model.backbone = ConvNeXt(arch=arch, fused=False)
    model.backbone.init_weights()
    nn.init.normal_(model.backbone.downsample_layers[0][0].bias, std=bias)
    runner = SimpleNamespace(
        model=model, optim_wrapper=None, logger=MMLogger.get_current_instance(), iter=0
    )
    if scale != 1:
        scaler = SimpleNamespace(get_scale=lambda: scale)
        runner.optim_wrapper = SimpleNamespace(loss_scaler=scaler)
    hook = ExplodingGradientHook()
    hook.before_train(runner)
    image = torch.randn(1, 3, 128, 128)
    if padded:
        image[..., 64:] = 0
    for runner.iter in range(steps):
        model.zero_grad()
        loss = sum((out * torch.randn_like(out)).sum() for out in model.backbone(image))
        (loss * scale).backward()
        hook.after_train_iter(runner, 0)
    return hook


def warnings(notes) -> list[str]:
    return [note for note in notes() if "zeros that pad images" in note]


def test_padding_from_scratch_is_explained_once(notes):
    hook = train(3, padded=True)
    (warning,) = warnings(notes)
    assert "in iteration 1: without pretrained weights" in warning
    assert "optim_wrapper.clip_grad=dict(max_norm=1.0)" in warning
    assert hook._handle is None


@pytest.mark.parametrize("scale", [1.0, 2.0**30])
def test_usual_gradients_are_not(notes, scale):
    """Nor those that mixed precision has scaled."""
    assert train(2, padded=False, scale=scale)._handle is not None
    assert warnings(notes) == []


def test_a_bias_of_the_first_convolution_helps(notes):
    train(2, padded=True, bias=1.0)
    assert warnings(notes) == []


def test_it_looks_at_the_first_iterations_alone():
    assert train(ITERATIONS, padded=False)._handle is None
