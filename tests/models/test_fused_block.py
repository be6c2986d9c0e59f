"""Blocks computed in tiles, compared with the same blocks layer by layer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.models import ConvNeXt, fused_block, tiles
from mmconvnext.models.block import Block
from mmconvnext.models.fused_block import FusedBlock
from mmconvnext.models.tiles import divide

# Layer scale and GRN: those of V1, of neither, of V2, and both at once.
KINDS = {"V1": (0.7, False), "V1 without gamma": (0, False), "V2": (0, True), "both": (0.7, True)}
SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}


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
    out = block(x)
    out.backward(values(*out.shape, seed=2).to(out) if grad is None else grad)
    return {"out": out, "x": x.grad, **{n: p.grad for n, p in block.named_parameters()}}


def distance(actual: Tensor, expected: Tensor) -> float:
    """Relative in the L2 norm; 0 for two zeros."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-12))


def assert_near(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
        else:
            assert distance(ours[name], expected) < tolerance, name


@pytest.fixture(params=[1, 20, 60, 10**6])
def limit(request, monkeypatch) -> int:
    """At most so many positions in a tile."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 0)
    monkeypatch.setattr(tiles, "MIN_POSITIONS", request.param)
    monkeypatch.setattr(tiles, "SQUARED_VALUES", 100)
    return request.param


# ---- the computation of one block


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (12, 5), (13, 20)], ids=str)
@pytest.mark.usefixtures("limit")
def test_equals_the_layers_one_by_one(size, kernel_size, kind):
    fused, plain = blocks(kind, kernel_size=kernel_size)
    x = values(3, 6, *size)
    before = x.clone()
    with torch.inference_mode():
        actual, expected = fused(x), plain(x)
    assert distance(actual, expected) < 1e-6
    assert torch.equal(x, before)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    trained = gradients(fused, x)
    assert distance(trained["out"], actual) < 1e-6
    assert_near(trained, gradients(plain, x), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("limit")
def test_stochastic_depth_drops_the_same_samples(kind):
    results = []
    x = values(8, 6, 5, 4)
    for block in blocks(kind, drop_path=0.5):
        torch.manual_seed(0)
        results.append(gradients(block.train(), x))
        with torch.no_grad():
            torch.manual_seed(0)
            assert distance(block(x), results[-1]["out"]) < 1e-6
    assert_near(*results, 2e-5)
    dropped = (results[0]["out"] == x).flatten(1).all(1)
    assert 0 < dropped.sum() < len(x), "the seed must drop some"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("limit")
def test_gradcheck(kind):
    fused, _ = blocks(kind, channels=3, kernel_size=3, dtype=torch.float64)
    x = values(2, 3, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: fused(x), (x, *fused.parameters()))


def test_gradient_of_a_layer_scale_of_zero():
    results = []
    for block in blocks(dtype=torch.float64):
        with torch.no_grad():
            block.gamma[::2] = 0
            block.gamma[1] = 1e-7
        results.append(gradients(block, values(2, 6, 5, 7, dtype=torch.float64)))
    assert_near(*results, 1e-12)


@pytest.mark.parametrize("kind", ["V1", "V2"])
@pytest.mark.parametrize("contiguous", itertools.product([True, False], repeat=2))
def test_any_memory_format_of_input_and_gradient(contiguous, kind):
    fused, plain = blocks(kind)
    x, grad = (
        t.contiguous() if c else t
        for t, c in zip((values(2, 6, 13, 9), values(2, 6, 13, 9, seed=3)), contiguous, strict=True)
    )
    assert_near(gradients(fused, x, grad), gradients(plain, x, grad), 2e-5)
    with torch.inference_mode():
        assert distance(fused(x), plain(x)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_result_and_gradients_have_the_types_of_inputs(dtype, kind):
    fused, plain = blocks(kind, dtype=dtype)
    x = values(2, 6, 5, 7, dtype=dtype)
    found, expected = gradients(fused, x), gradients(plain, x)
    assert {t.dtype for t in found.values()} == {dtype}
    assert distance(found["out"], expected["out"]) < 4 * torch.finfo(dtype).eps
    with torch.no_grad():
        assert fused(x).dtype == dtype


@pytest.mark.parametrize("kind", ["V1", "both"])
@pytest.mark.parametrize("magnitude", [1e-4, 1e4])
def test_float16_keeps_gradients_that_the_layer_scale_brings_into_range(magnitude, kind):
    fused, plain = blocks(kind, channels=16)
    found = []
    for block in (fused, plain):
        nn.init.constant_(block.gamma, 1 / magnitude)
        with torch.autocast("cpu", torch.float16):
            found.append(
                gradients(block, values(2, 16, 9, 11), torch.full((2, 16, 9, 11), magnitude))
            )
    for name, theirs in found[1].items():
        if name not in ("out", "x", "gamma"):
            assert theirs.isfinite().all()
            assert distance(found[0][name], theirs) < 3e-2, name


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
    assert found["out"].shape == found["x"].shape == (0, 6, 4, 5)
    assert all((grad == 0).all() for grad in found.values())
    with torch.inference_mode():
        assert fused(values(0, 6, 4, 5)).shape == (0, 6, 4, 5)


def test_a_second_derivative_is_refused():
    fused, _ = blocks()
    x = values(1, 6, 5, 5).requires_grad_()
    (grad,) = torch.autograd.grad(fused(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_one_block_used_twice():
    fused, plain = blocks(channels=8)
    x = values(2, 8, 9, 9)
    results = []
    for block in (fused, plain):
        block(block(x)).square().sum().backward()
        results.append({name: param.grad for name, param in block.named_parameters()})
    assert_near(*results)


@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 35, 36, 70, 10**9])
@pytest.mark.parametrize("scales", [(), (1.0,), (1.0,) * 5, (0.0, 2.0, 2.0, 0.0, 2.0)], ids=str)
def test_tiles_cover_each_row_once(scales, limit, by_sample):
    height, width = 5, 7
    covered = torch.zeros(len(scales), height, dtype=torch.int)
    for scale, group in divide((len(scales), 3, height, width), scales, limit, by_sample):
        assert not by_sample or all(t.samples == group[0].samples for t in group)
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


def saved(function, x: Tensor, params: Iterator[Tensor], dtype=torch.float32) -> dict[int, int]:
    """The bytes of each storage that is saved for the backward pass, but for the parameters'."""
    sizes, known = {}, {p.untyped_storage().data_ptr() for p in params}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        function(x)
    return sizes


@pytest.mark.parametrize(("kind", "norms"), [("V1", 0), ("V2", 2 * 4 * 16 * 4)])
def test_saves_input_and_output_of_the_convolution_and_norms_alone(kind, norms):
    fused, plain = blocks(kind, channels=16)
    x = values(2, 16, 12, 12).requires_grad_()
    kept = saved(fused, x, fused.parameters())
    assert kept.pop(x.data_ptr()) == x.nbytes
    assert sum(kept.values()) == x.nbytes + norms
    assert sum(kept.values()) + x.nbytes < 0.3 * sum(saved(plain, x, plain.parameters()).values())


@pytest.mark.parametrize("use_grn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_saves_little_of_images_of_usual_size(dtype, use_grn):
    """At the default sizes, of a network whose maps are as large as T's at 2x3x320x480."""
    kept = {}
    for fused in ("auto", False):
        arch = {"depths": (1, 1, 1, 1), "widths": (96, 192, 384, 768)}
        model = ConvNeXt(arch, use_grn=use_grn, out_indices=(0, 1, 2), fused=fused)
        kept[fused] = 0
        for stage, (c, h, w) in zip(
            model.stages, [(96, 80, 120), (192, 40, 60), (384, 20, 30)], strict=True
        ):
            x = torch.randn(2, c, h, w, requires_grad=True)
            kept[fused] += sum(saved(stage, x, stage.parameters(), dtype).values())
    assert kept["auto"] < 0.3 * kept[False]


# ---- when a block is not fused: the result must be the same all the same


def dilated(layer: Block) -> None:
    layer.dwconv.dilation, layer.dwconv.padding = (2, 2), (6, 6)


def circular(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(6, 6, 7, padding=3, groups=6, padding_mode="circular")


def padded_by_name(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(6, 6, 7, padding="same", groups=6)


def grouped(layer: Block) -> None:
    layer.dwconv = nn.Conv2d(6, 6, 7, padding=3, groups=2)


def without_bias(layer: Block) -> None:
    layer.pwconv1 = nn.Linear(6, 24, bias=False)


def without_affine(layer: Block) -> None:
    layer.norm = nn.LayerNorm(6, elementwise_affine=False)


def replaced(layer: Block) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer.pwconv2 = Doubled(24, 6)


@pytest.mark.parametrize("wants_grad", [True, False])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        *((change, "dwconv") for change in (dilated, circular, padded_by_name, grouped)),
        *((without_bias, "pwconv1"), (without_affine, "norm"), (replaced, "pwconv2")),
    ],
)
def test_changed_layers_compute_what_they_say(change, name, wants_grad):
    changed, plain = blocks()
    for each in (changed, plain):
        change(each)
    plain.load_state_dict(changed.state_dict())
    x = values(2, 6, 12, 12)
    with torch.set_grad_enabled(wants_grad):
        assert changed.why_not_fused(x) == f"{name} replaced, changed or with hooks"
        assert torch.equal(changed(x), plain(x))


@pytest.mark.parametrize("layer", ["dwconv", "norm", "pwconv1", "grn", "pwconv2"])
def test_hooks_of_every_layer_are_called(layer):
    fused, plain = blocks("V2")
    seen = []
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        hook = getattr(fused.get_submodule(layer), f"register_{kind}")
        hook(lambda *_, kind=kind: seen.append(kind))
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


def test_a_plain_block_says_why():
    assert blocks()[1].why_not_fused(values(1, 6, 4, 4)) == "fused=False"


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


# ---- everything that training does to a network


def pair(kind: str = "V1", **kwargs) -> tuple[ConvNeXt, ConvNeXt]:
    """The same network fused and layer by layer, with parameters that are not all the same."""
    torch.manual_seed(0)
    gamma, use_grn = KINDS[kind]
    kwargs = {"layer_scale_init_value": gamma, "use_grn": use_grn, **kwargs}
    fused, plain = ConvNeXt(SMALL, fused=True, **kwargs), ConvNeXt(SMALL, fused=False, **kwargs)
    with torch.no_grad():
        for name, param in fused.named_parameters():
            if name.endswith(("gamma", "beta")):
                param.normal_()
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def image(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss_of(features: tuple[Tensor, ...]) -> Tensor:
    """A loss that output norms do not make constant."""
    return sum((f.float() * torch.linspace(-1, 1, f.numel()).view(f.shape)).sum() for f in features)


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradient of every parameter, and the loss."""
    torch.manual_seed(3)
    loss = loss_of(model(x))
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}}


both_versions = pytest.mark.parametrize("kind", ["V1", "V2"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"drop_path_rate": 0.8}, {"with_cp": True, "drop_path_rate": 0.8}),
        *({"frozen_stages": 2}, {"kernel_size": 3}),
    ],
    ids=str,
)
def test_training_steps_are_the_same(options, kind):
    fused, plain = pair(kind, **options)
    for x in (image(4), image(1)):  # gradients add up
        results = step(fused.train(), x), step(plain.train(), x)
    assert_near(*results)


@both_versions
def test_features_are_the_same(kind):
    fused, plain = pair(kind)
    with torch.inference_mode():
        for ours, theirs in zip(fused.eval()(image()), plain.eval()(image()), strict=True):
            assert distance(ours, theirs) < 1e-5
            assert ours.stride() == theirs.stride()


@both_versions
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str
)
def test_autocast_with_a_scaled_loss(dtype, tolerance, kind):
    results = []
    for model in pair(kind):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.autocast("cpu", dtype):
            loss = loss_of(model(image())) / 100
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        scaler.step(optimizer)
    assert results[0].isfinite().all()
    assert distance(*results) < tolerance


@both_versions
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_compiled_it_is_the_same(mode, kind):
    fused, plain = pair(kind)
    compiled = torch.compile(getattr(fused, mode)(), fullgraph=True, backend="aot_eager")
    compiled_step, expected = step(compiled, image()), step(getattr(plain, mode)(), image())
    assert_near({k.removeprefix("_orig_mod."): v for k, v in compiled_step.items()}, expected)


@both_versions
def test_traced_it_is_the_same(kind):
    fused, plain = pair(kind)
    with torch.no_grad():
        traced = torch.jit.trace(fused.eval(), image())
        other = image(1, 96, 64)
        for ours, theirs in zip(traced(other), plain.eval()(other), strict=True):
            assert distance(ours, theirs) < 1e-5


def test_per_sample_gradients_by_functorch_are_the_same():
    results = []
    for model in pair():
        params = {name: param.detach() for name, param in model.named_parameters()}

        def loss(params: dict, x: Tensor, model: nn.Module = model) -> Tensor:
            return loss_of(torch.func.functional_call(model, params, (x,)))

        results.append(torch.func.grad(loss)(params, image()))
    assert_near(*results)


@both_versions
def test_counters_see_all_multiply_adds(kind):
    counts = []
    for model in pair(kind):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(image())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_deep_copies_and_float64_keep_working():
    fused, plain = pair("both")
    assert_near(step(copy.deepcopy(fused).double(), image().double()), step(plain, image()))


def _train_distributed(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    model = DistributedDataParallel(pair(kind)[0].train())
    grads = step(model, image(2)[rank : rank + 1])
    if rank == 0:
        torch.save(grads, f"{folder}/grads.pth")
    torch.distributed.destroy_process_group()


def test_distributed_gradients_are_the_means_of_the_processes(tmp_path):
    torch.multiprocessing.spawn(_train_distributed, (str(tmp_path), "both"), nprocs=2)
    ours = torch.load(tmp_path / "grads.pth")
    ours = {name.removeprefix("module."): grad for name, grad in ours.items() if name != "loss"}
    plain = pair("both")[1].train()
    sum(loss_of(plain(x)) / 2 for x in image(2).split(1)).backward()
    assert_near(ours, {name: param.grad for name, param in plain.named_parameters()})
