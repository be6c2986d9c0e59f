"""When blocks are computed in pieces: the rest must go layer by layer, and give the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from mmconvnext.models import ConvNeXt, fusing
from mmconvnext.models.block import Block
from mmconvnext.models.fusing import can_fuse

CHANNELS = 16


def block(fused: bool = True) -> Block:
    return Block(CHANNELS, 7, nn.Identity(), 1.0, False, fused)


def image(size: int = 12) -> Tensor:
    return torch.randn(2, CHANNELS, size, size, generator=torch.Generator().manual_seed(0))


def dilated(layer: Block) -> None:
    layer.dwconv.dilation, layer.dwconv.padding = (2, 2), (6, 6)


def circular(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(
        CHANNELS, CHANNELS, 7, padding=3, groups=CHANNELS, padding_mode="circular"
    )


def unpadded_named(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(CHANNELS, CHANNELS, 7, padding="same", groups=CHANNELS)


def grouped(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(CHANNELS, CHANNELS, 7, padding=3, groups=4)


def without_bias(layer: Block) -> None:
    layer.pwconv1 = nn.Linear(CHANNELS, 4 * CHANNELS, bias=False)


def without_affine(layer: Block) -> None:
    layer.norm = nn.LayerNorm(CHANNELS, elementwise_affine=False)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    "change",
    [dilated, circular, unpadded_named, grouped, without_bias, without_affine],
    ids=lambda f: f.__name__,
)
@pytest.mark.usefixtures("always_fused")
def test_changed_layers_compute_what_they_say(change, learns):
    changed, plain = block(), block(fused=False)
    for each in (changed, plain):
        change(each)
    plain.load_state_dict(changed.state_dict())
    assert not can_fuse(changed, image(), learns)
    with torch.set_grad_enabled(learns):
        assert torch.equal(changed(image()), plain(image()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("learns", "name"), [(False, "FUSED_FROM_BYTES"), (True, "TRAINED_FUSED_FROM_BYTES")]
)
def test_small_maps_are_left_to_the_layers(monkeypatch, dtype, learns, name):
    size = 4 * image().numel() * dtype.itemsize
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        for least in (size + 1, size):
            monkeypatch.setattr(fusing, name, least)
            assert can_fuse(block(), image(), learns) == (least == size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_keeps_little_of_images_of_usual_size(dtype):
    """At the default sizes, of a network whose maps are as large as T's at 2x3x320x480."""
    kept = {}
    for fused in (True, False):
        model = ConvNeXt({"depths": (1, 1, 1, 1), "widths": (96, 192, 384, 768)}, fused=fused)
        params, sizes = {p.data_ptr() for p in model.parameters()}, {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.setdefault(t.untyped_storage().data_ptr(), t.nbytes) and t,
            lambda t: t,
        )
        with hooks, torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            model.stages[0](torch.randn(2, 96, 80, 120, requires_grad=True))
            model.stages[1](torch.randn(2, 192, 40, 60, requires_grad=True))
            model.stages[2](torch.randn(2, 384, 20, 30, requires_grad=True))
        kept[fused] = sum(size for pointer, size in sizes.items() if pointer not in params)
    assert kept[True] < 0.3 * kept[False]


@pytest.mark.usefixtures("always_fused")
def test_fake_tensors_keep_their_shapes():
    with FakeTensorMode():
        assert block()(torch.empty(2, CHANNELS, 5, 7)).shape == (2, CHANNELS, 5, 7)


@pytest.mark.usefixtures("always_fused")
def test_autocast_leaves_float64_alone():
    layer = block().double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(image().double()).dtype == torch.float64
