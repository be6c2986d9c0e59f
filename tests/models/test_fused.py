"""Fused blocks in everything that training does to a network, compared with layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.models import ConvNeXt, fusing
from mmconvnext.models.block import Block

pytestmark = pytest.mark.usefixtures("always_fused")

SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}


def pair(**kwargs) -> tuple[ConvNeXt, ConvNeXt]:
    """The same network fused and layer by layer, with a layer scale that is not all the same."""
    torch.manual_seed(0)
    fused, plain = ConvNeXt(SMALL, **kwargs), ConvNeXt(SMALL, fused=False, **kwargs)
    with torch.no_grad():
        for name, param in fused.named_parameters():
            if name.endswith("gamma"):
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


def assert_near(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
        else:
            error = (ours[name] - expected).norm() / expected.norm().clamp(min=1e-12)
            assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_path_rate": 0.8},
        {"with_cp": True, "drop_path_rate": 0.8},
        {"frozen_stages": 2},
        {"layer_scale_init_value": 0},
        {"use_grn": True, "layer_scale_init_value": 0},
        {"kernel_size": 3},
    ],
    ids=str,
)
def test_a_training_step_is_the_same(options):
    fused, plain = pair(**options)
    assert_near(step(fused.train(), image(4)), step(plain.train(), image(4)))


def test_features_are_the_same():
    fused, plain = pair()
    with torch.inference_mode():
        for ours, theirs in zip(fused.eval()(image()), plain.eval()(image()), strict=True):
            assert (ours - theirs).norm() < 1e-5 * theirs.norm()
            assert ours.stride() == theirs.stride()


def test_keeps_less_than_three_tenths_of_the_activations():
    def kept(block: Block) -> int:
        sizes, params = {}, {p.data_ptr() for p in block.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.setdefault(t.data_ptr(), t.numel()) and t, lambda t: t
        ):
            block(torch.randn(2, 16, 12, 12, requires_grad=True))
        return sum(size for pointer, size in sizes.items() if pointer not in params)

    options = (16, 7, nn.Identity(), 1.0, False)
    assert kept(Block(*options)) < 0.3 * kept(Block(*options, fused=False))


@pytest.mark.parametrize("layer", ["dwconv", "norm", "pwconv1", "pwconv2"])
def test_hooks_of_every_layer_are_called(layer):
    fused, plain = pair()
    seen = []
    for kind in ("register_forward_hook", "register_forward_pre_hook"):
        getattr(fused.stages[2][1].get_submodule(layer), kind)(lambda *_: seen.append(1))
    assert_near(step(fused, image()), step(plain, image()))
    assert len(seen) == 2


def test_gradients_reach_backward_hooks():
    fused, _ = pair()
    seen = []
    fused.stages[0][0].pwconv1.register_full_backward_hook(lambda *_: seen.append(1))
    step(fused, image())
    assert seen == [1]


def test_a_layer_that_was_replaced_is_used():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    fused, plain = pair()
    for model in (fused, plain):
        block = model.stages[1][0]
        doubled = Doubled(block.pwconv1.in_features, block.pwconv1.out_features)
        doubled.load_state_dict(block.pwconv1.state_dict())
        block.pwconv1 = doubled
    assert_near(step(fused, image()), step(plain, image()))


def test_one_block_used_twice():
    fused, plain = (Block(8, 7, nn.Identity(), 0.5, False, fused=on) for on in (True, False))
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 8, 9, 9)
    results = []
    for block in (fused, plain):
        block(block(x)).square().sum().backward()
        results.append({name: param.grad for name, param in block.named_parameters()})
    assert_near(*results)


def test_gradients_add_up_over_steps():
    fused, plain = pair()
    for x in (image(), image(1)):
        results = step(fused, x), step(plain, x)
    assert_near(*results)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)], ids=str
)
def test_autocast_with_a_scaled_loss(dtype, tolerance):
    fused, plain = pair()
    results = []
    for model in (fused, plain):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.autocast("cpu", dtype):
            loss = loss_of(model(image())) / 100
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        scaler.step(optimizer)
    ours, theirs = results
    assert ours.isfinite().all()
    assert (ours - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_compiled_it_is_the_same(mode):
    fused, plain = pair()
    compiled = torch.compile(getattr(fused, mode)(), fullgraph=True, backend="aot_eager")
    compiled_step, expected = step(compiled, image()), step(getattr(plain, mode)(), image())
    assert_near({k.removeprefix("_orig_mod."): v for k, v in compiled_step.items()}, expected)


def test_traced_it_is_the_same():
    fused, plain = pair()
    with torch.no_grad():
        traced = torch.jit.trace(fused.eval(), image())
        other = image(1, 96, 64)
        for ours, theirs in zip(traced(other), plain.eval()(other), strict=True):
            assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_per_sample_gradients_by_functorch_are_the_same():
    fused, plain = pair()
    results = []
    for model in (fused, plain):
        params = {name: param.detach() for name, param in model.named_parameters()}

        def loss(params: dict, x: Tensor, model: nn.Module = model) -> Tensor:
            return loss_of(torch.func.functional_call(model, params, (x,)))

        results.append(torch.func.grad(loss)(params, image()))
    assert_near(*results)


def test_counters_see_all_multiply_adds():
    counts = []
    for model in pair():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(image())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_deep_copies_and_float64_keep_working():
    fused, plain = pair()
    assert_near(step(copy.deepcopy(fused).double(), image().double()), step(plain, image()), 1e-4)


def _train_distributed(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    fusing.TRAINED_FUSED_FROM_BYTES = 0
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    model = DistributedDataParallel(pair()[0].train())
    grads = step(model, image(2)[rank : rank + 1])
    if rank == 0:
        torch.save(grads, f"{folder}/grads.pth")
    torch.distributed.destroy_process_group()


def test_distributed_gradients_are_the_means_of_the_processes(tmp_path):
    torch.multiprocessing.spawn(_train_distributed, (str(tmp_path),), nprocs=2)
    ours = torch.load(tmp_path / "grads.pth")
    ours = {name.removeprefix("module."): grad for name, grad in ours.items() if name != "loss"}
    plain = pair()[1].train()
    sum(loss_of(plain(x)) / 2 for x in image(2).split(1)).backward()
    assert_near(ours, {name: param.grad for name, param in plain.named_parameters()})
