"""Blocks computed in tiles, compared with the same blocks layer by layer."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from mmconvnext.models import ConvNeXt, fused_block, tiles
from mmconvnext.models.block import Block
from mmconvnext.models.fused_block import FusedBlock
from mmconvnext.models.tiles import divide
from tests.models.common import KINDS, assert_near, distance, saved

each_kind = pytest.mark.parametrize("kind", KINDS)


def blocks(kind="V1", channels=6, kernel_size=7, drop_path=0.0, dtype=torch.float32):
    """The same block fused and layer by layer; all parameters far from where they begin."""
    gamma, use_grn = KINDS[kind]
    arguments = (channels, kernel_size, DropPath(drop_path), gamma, use_grn)
    fused, plain = FusedBlock(*arguments, fused=True), Block(*arguments)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in plain.parameters():
            param.add_(0.3 * torch.randn(param.shape, generator=generator))
    fused.load_state_dict(plain.state_dict())
    return fused.to(dtype), plain.to(dtype)


def values(*shape: int, seed: int = 1, dtype=torch.float32) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def gradients(block: nn.Module, x: Tensor, grad: Tensor | None = None) -> dict[str, Tensor | None]:
    """The output and the gradients of the input and of all parameters."""
    x = x.detach().requires_grad_()
    block.zero_grad()
    torch.manual_seed(0)
    out = block(x)
    out.backward(values(*out.shape, seed=2).to(out) if grad is None else grad)
    return {"out": out, "x": x.grad, **{n: p.grad for n, p in block.named_parameters()}}


def assert_same(
    pair: tuple[nn.Module, nn.Module], x: Tensor, grad: Tensor | None = None, tolerance=2e-5
) -> dict[str, Tensor | None]:
    """Equal in training and, without a graph, in use; returns what the fused one computed."""
    fused, plain = pair
    found = gradients(fused, x, grad)
    assert_near(found, gradients(plain, x, grad), tolerance)
    with torch.inference_mode():
        torch.manual_seed(0)
        out = fused(x)
    assert distance(out, found["out"]) < min(tolerance, 1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    return found


@pytest.fixture(params=[1, 20, 60, 10**6])
def limit(request, monkeypatch) -> int:
    """At most so many positions in a tile."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 0)
    monkeypatch.setattr(tiles, "MIN_POSITIONS", request.param)
    monkeypatch.setattr(tiles, "SQUARED_VALUES", 100)
    return request.param


# ---- the computation of one block


@each_kind
@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (12, 5), (13, 20)], ids=str)
@pytest.mark.usefixtures("limit")
def test_equals_the_layers_one_by_one(size, kernel_size, kind):
    x = values(3, 6, *size)
    before = x.clone()
    found = assert_same(blocks(kind, kernel_size=kernel_size), x)
    assert torch.equal(x, before)
    assert {t.dtype for t in found.values()} == {torch.float32}


@each_kind
@pytest.mark.usefixtures("limit")
def test_stochastic_depth_drops_the_same_samples(kind):
    x = values(8, 6, 5, 4)
    found = assert_same(blocks(kind, drop_path=0.5), x)
    assert 0 < (found["out"] == x).flatten(1).all(1).sum() < len(x), "the seed must drop some"


@each_kind
@pytest.mark.usefixtures("limit")
def test_gradcheck(kind):
    fused, _ = blocks(kind, channels=3, kernel_size=3, dtype=torch.float64)
    x = values(2, 3, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: fused(x), (x, *fused.parameters()))


def test_gradient_of_a_layer_scale_of_zero():
    pair = blocks(dtype=torch.float64)
    with torch.no_grad():
        for block in pair:
            block.gamma[::2] = 0
            block.gamma[1] = 1e-7
    assert_same(pair, values(2, 6, 5, 7, dtype=torch.float64), tolerance=1e-12)


@pytest.mark.parametrize("kind", ["V1", "V2"])
@pytest.mark.parametrize("contiguous", itertools.product([True, False], repeat=2))
def test_any_memory_format_of_input_and_gradient(contiguous, kind):
    tensors = values(2, 6, 13, 9), values(2, 6, 13, 9, seed=3)
    tensors = (t.contiguous() if c else t for t, c in zip(tensors, contiguous, strict=True))
    assert_same(blocks(kind), *tensors)


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("limit")
def test_autocast_is_as_exact_as_layer_by_layer(dtype, kind):
    fused, plain = blocks(kind, channels=32)
    x, grad = values(2, 32, 9, 11), values(2, 32, 9, 11, seed=2)
    exact, errors = gradients(copy.deepcopy(plain).double(), x.double(), grad.double()), {}
    for block in (fused, plain):
        with torch.autocast("cpu", dtype):
            found = gradients(block, x, grad.to(block(x).dtype))
            with torch.inference_mode():
                found["inferred"] = block(x)
        errors[block] = {n: distance(t, exact.get(n, exact["out"])) for n, t in found.items()}
        errors[block]["dtypes"] = [t.dtype for t in found.values()]
    assert errors[fused].pop("dtypes") == errors[plain].pop("dtypes")
    for name, theirs in errors[plain].items():
        assert errors[fused][name] < 1.5 * theirs + 1e-4, name


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_result_and_gradients_have_the_types_of_inputs(dtype, kind):
    fused, plain = blocks(kind, dtype=dtype)
    x = values(2, 6, 5, 7, dtype=dtype)
    found, expected = gradients(fused, x), gradients(plain, x)
    with torch.no_grad():
        assert {t.dtype for t in (*found.values(), fused(x))} == {dtype}
    assert distance(found["out"], expected["out"]) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", ["V1", "both"])
@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
def test_float16_keeps_gradients_that_the_layer_scale_brings_into_range(magnitude, kind):
    found, x = [], values(2, 16, 9, 11)
    for block in blocks(kind, channels=16):
        nn.init.constant_(block.gamma, 1 / magnitude)
        with torch.autocast("cpu", torch.float16):
            results = gradients(block, x, torch.full(x.shape, magnitude))
        found.append({n: t for n, t in results.items() if n not in ("out", "x", "gamma")})
    assert all(theirs.isfinite().all() for theirs in found[1].values())
    assert_near(*found, 3e-2)


@pytest.mark.parametrize("frozen", ["dwconv", "norm", "pwconv1", "pwconv2", "grn", "gamma", "x"])
def test_any_part_can_be_frozen(frozen):
    results = []
    for block in blocks("both"):
        for name, param in block.named_parameters():
            param.requires_grad_(not name.startswith(frozen))
        x = values(2, 6, 5, 7).requires_grad_(frozen != "x")
        (block(x) * values(2, 6, 5, 7, seed=3)).sum().backward()
        results.append({"x": x.grad, **{n: p.grad for n, p in block.named_parameters()}})
    assert_near(*results, 2e-5)


def test_without_anything_that_requires_gradients_there_is_no_graph():
    fused, _ = blocks()
    x = values(1, 6, 9, 9)
    assert not fused.requires_grad_(False)(x).requires_grad, "frozen within a model in training"
    assert fused(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("kind", ["V1", "V2"])
def test_an_empty_batch(kind):
    fused, _ = blocks(kind)
    found = gradients(fused, values(0, 6, 4, 5))
    with torch.inference_mode():
        shapes = [t.shape for t in (found["out"], found["x"], fused(values(0, 6, 4, 5)))]
    assert shapes == [(0, 6, 4, 5)] * 3
    assert all((grad == 0).all() for grad in found.values())


def test_a_second_derivative_is_refused():
    fused, _ = blocks()
    x = values(1, 6, 5, 5).requires_grad_()
    (grad,) = torch.autograd.grad(fused(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_one_block_used_twice():
    twice = [nn.Sequential(block, block) for block in blocks(channels=8)]
    assert_same(twice, values(2, 8, 9, 9), tolerance=1e-4)


@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 35, 36, 70, 10**9])
@pytest.mark.parametrize("scales", [(), (1.0,), (1.0,) * 5, (0.0, 2.0, 2.0, 0.0, 2.0)], ids=str)
def test_tiles_cover_each_row_once(scales, limit, by_sample):
    height, width = 5, 7
    covered = torch.zeros(len(scales), height, dtype=torch.int)
    for scale, group in divide((len(scales), 3, height, width), scales, limit, by_sample):
        assert len({str(tile.samples) for tile in group}) == 1
        assert by_sample or len(group) == 1
        for tile in group:
            covered[tile.samples, tile.top : tile.bottom] += 1
            samples = range(len(scales))[tile.samples]
            assert {scales[sample] for sample in samples} == {scale}
            whole = (tile.top, tile.bottom) == (0, height)
            assert len(samples) == 1 or (whole and not by_sample)
            positions = len(samples) * (tile.bottom - tile.top) * width
            assert positions == tile.positions.stop - tile.positions.start <= max(limit, width)
        if by_sample:
            assert sum(tile.bottom - tile.top for tile in group) == height
    assert (covered == 1).all()


# ---- what is saved


@pytest.mark.parametrize(("kind", "norms"), [("V1", 0), ("V2", 2 * 4 * 16 * 4)])
def test_saves_input_and_output_of_the_convolution_and_norms_alone(kind, norms):
    fused, plain = blocks(kind, channels=16)
    x = values(2, 16, 12, 12).requires_grad_()
    kept = saved(fused, x, fused.parameters())
    assert kept.pop(x.data_ptr()) == x.nbytes
    assert sum(kept.values()) == x.nbytes + norms
    assert sum(kept.values()) + x.nbytes < 0.3 * sum(saved(plain, x, plain.parameters()).values())


@pytest.mark.parametrize("use_grn", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_saves_little_of_images_of_usual_size(dtype, use_grn):
    """At the default sizes, of a network whose maps are as large as T's at 2x3x320x480."""
    kept = {}
    for fused in ("auto", False):
        arch = {"depths": (1, 1, 1, 1), "widths": (96, 192, 384, 768)}
        model = ConvNeXt(arch, use_grn=use_grn, out_indices=(0, 1, 2), fused=fused)
        kept[fused] = 0
        shapes = [(96, 80, 120), (192, 40, 60), (384, 20, 30)]
        for stage, shape in zip(model.stages, shapes, strict=True):
            x = torch.randn(2, *shape, requires_grad=True)
            kept[fused] += sum(saved(stage, x, stage.parameters(), dtype).values())
    assert kept["auto"] < 0.3 * kept[False]


# ---- when a block is not fused: the result must be the same all the same


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


CHANGED = {
    "dilated": ("dwconv", nn.Conv2d(6, 6, 7, padding=6, groups=6, dilation=2)),
    "circular": ("dwconv", nn.Conv2d(6, 6, 7, padding=3, groups=6, padding_mode="circular")),
    "padded by name": ("dwconv", nn.Conv2d(6, 6, 7, padding="same", groups=6)),
    "grouped": ("dwconv", nn.Conv2d(6, 6, 7, padding=3, groups=2)),
    "no bias": ("pwconv1", nn.Linear(6, 24, bias=False)),
    "not affine": ("norm", nn.LayerNorm(6, elementwise_affine=False)),
    "doubled": ("pwconv2", Doubled(24, 6)),
}


@pytest.mark.parametrize("wants_grad", [True, False])
@pytest.mark.parametrize("change", CHANGED)
def test_changed_layers_compute_what_they_say(change, wants_grad):
    (changed, plain), (name, layer), x = blocks(), CHANGED[change], values(2, 6, 12, 12)
    for block in (changed, plain):
        setattr(block, name, copy.deepcopy(layer))
    with torch.set_grad_enabled(wants_grad):
        assert changed.why_not_fused(x) == f"{name} replaced, changed or with hooks"
        assert torch.equal(changed(x), plain(x))


@pytest.mark.parametrize("layer", ["dwconv", "norm", "pwconv1", "grn", "pwconv2"])
def test_hooks_of_every_layer_are_called(layer):
    fused, plain = blocks("V2")
    seen = []
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        register = getattr(fused.get_submodule(layer), f"register_{kind}")
        register(lambda *_, kind=kind: seen.append(kind))
    assert_near(gradients(fused, values(2, 6, 9, 9)), gradients(plain, values(2, 6, 9, 9)))
    assert seen == ["forward_pre_hook", "forward_hook", "full_backward_hook"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("wants_grad", "name"), [(False, "FUSED_FROM_BYTES"), (True, "TRAINED_FUSED_FROM_BYTES")]
)
def test_auto_leaves_small_maps_to_the_layers(monkeypatch, dtype, wants_grad, name):
    block, x = blocks()[0], values(2, 6, 12, 12)
    block.fused = "auto"
    size = 4 * x.numel() * dtype.itemsize
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32)
    with autocast, torch.set_grad_enabled(wants_grad):
        monkeypatch.setattr(fused_block, name, size)
        assert block.why_not_fused(x) is None
        monkeypatch.setattr(fused_block, name, size + 2**20)
        assert block.why_not_fused(x).startswith("its hidden map has less than 1.0")
        block.fused = True
        assert block.why_not_fused(x) is None


def test_auto_leaves_accelerators_to_the_layers(monkeypatch):
    """As a tensor there says of itself: there is no accelerator where this runs."""

    class Elsewhere:
        device, is_meta = torch.device("cuda"), False

    monkeypatch.setattr(fused_block, "is_recorded", lambda x: False)
    block = blocks()[0]
    assert block.why_not_fused(Elsewhere()) is None
    block.fused = "auto"
    assert block.why_not_fused(Elsewhere()).startswith("on cuda it was not measured to pay")


def test_fake_tensors_keep_their_shapes():
    with FakeTensorMode():
        x = torch.empty(2, 6, 5, 7)
        block = FusedBlock(6, 7, nn.Identity(), 1.0, False, fused=True)
        assert "shapes" in block.why_not_fused(x)
        assert block(x).shape == x.shape


def test_autocast_leaves_float64_alone():
    fused, _ = blocks(dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused(values(1, 6, 4, 4, dtype=torch.float64)).dtype == torch.float64
