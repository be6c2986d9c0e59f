"""Blocks in strips, compared with torch's layers one by one and with the pass for training."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from mmconvnext.models import mixer
from mmconvnext.models.block import Block
from mmconvnext.models.strips import divide

pytestmark = pytest.mark.usefixtures("always_fused")

CHANNELS = 6


def random_block(kernel_size: int = 7, gamma: float = 0.7, drop_path: float = 0.0) -> Block:
    """A block whose parameters are all far from where they begin."""
    block = Block(CHANNELS, kernel_size, DropPath(drop_path), gamma, use_grn=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in block.parameters():
            param.add_(0.3 * torch.randn(param.shape, generator=generator))
    return block


def random_input(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def layer_by_layer(block: Block, x: Tensor) -> Tensor:
    block.fused = False
    try:
        return block(x)
    finally:
        block.fused = True


@pytest.fixture(params=[1, 20, 60, 10**6])
def limit(request, monkeypatch) -> int:
    """At most so many positions in a strip."""
    monkeypatch.setattr(mixer, "PIECE_BYTES", 0)
    monkeypatch.setattr(mixer, "MIN_POSITIONS", request.param)
    return request.param


@pytest.mark.parametrize("gamma", [0.7, 0], ids=["gamma", "no gamma"])
@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (12, 5), (13, 20)], ids=str)
@pytest.mark.usefixtures("limit")
def test_equals_the_layers_one_by_one(size, kernel_size, gamma):
    block, x = random_block(kernel_size, gamma), random_input(3, CHANNELS, *size)
    before = x.clone()
    with torch.inference_mode():
        actual, expected = block(x), layer_by_layer(block, x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("limit")
def test_equals_the_pass_for_training():
    block, x = random_block(), random_input(2, CHANNELS, 13, 9)
    trained = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), trained.detach(), rtol=1e-6, atol=1e-6)
    assert trained.requires_grad


@pytest.mark.usefixtures("limit")
def test_stochastic_depth_drops_the_same_samples():
    block, x = random_block(drop_path=0.5).train(), random_input(8, CHANNELS, 5, 4)
    with torch.no_grad():
        torch.manual_seed(0)
        actual = block(x)
        torch.manual_seed(0)
        expected = layer_by_layer(block, x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    dropped = (actual == x).flatten(1).all(1)
    assert 0 < dropped.sum() < len(x), "the seed must drop some"


def test_nothing_but_the_output_needs_a_graph():
    block, x = random_block().requires_grad_(False), random_input(1, CHANNELS, 9, 9)
    assert not block(x).requires_grad, "a frozen block within a model that is trained"
    assert block(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("limit")
def test_autocast_is_as_exact_as_layer_by_layer(dtype):
    block, x = random_block(), random_input(2, CHANNELS, 13, 9)
    with torch.inference_mode():
        exact = layer_by_layer(block, x)
        with torch.autocast("cpu", dtype=dtype):
            actual, usual = block(x), layer_by_layer(block, x)
    assert actual.dtype == usual.dtype
    assert (actual - exact).norm() < 1.5 * (usual - exact).norm()


@pytest.mark.usefixtures("limit")
def test_any_memory_format():
    block, x = random_block(), random_input(2, CHANNELS, 13, 9)
    with torch.inference_mode():
        torch.testing.assert_close(block(x.contiguous()), block(x))


def test_an_empty_batch():
    with torch.inference_mode():
        assert random_block()(random_input(0, CHANNELS, 4, 5)).shape == (0, CHANNELS, 4, 5)


@pytest.mark.parametrize("limit", [None, 1, 7, 35, 36, 70, 10**6])
@pytest.mark.parametrize("scales", [(1.0,), (1.0,) * 5, (0.0, 2.0, 2.0, 0.0, 2.0)], ids=str)
def test_strips_cover_each_row_once(scales, limit):
    height, width = 5, 7
    covered = torch.zeros(len(scales), height, dtype=torch.int)
    for strip in divide(scales, height, width, limit):
        covered[strip.samples, strip.top : strip.bottom] += 1
        samples = range(len(scales))[strip.samples]
        assert {scales[sample] for sample in samples} == {strip.scale}
        whole = (strip.top, strip.bottom) == (0, height)
        assert whole or len(samples) == 1
        positions = len(samples) * (strip.bottom - strip.top) * width
        assert limit is None or strip.scale == 0 or positions <= max(limit, width)
    assert (covered == 1).all()
