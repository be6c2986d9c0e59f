"""Networks whose blocks are fused, compared with the same layer by layer in training and use."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.models import ConvNeXt
from tests.models.common import KINDS, SMALL, assert_all_near, assert_near, image
from tests.processes import in_two_processes


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
        assert_all_near(traced(image(1, 96, 64)), plain.eval()(image(1, 96, 64)), 1e-5)


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


def _train_distributed(rank: int, folder: Path, kind: str) -> None:
    model = DistributedDataParallel(pair(kind)[0].train())
    grads = step(model, image(2)[rank : rank + 1])
    if rank == 0:
        torch.save(grads, f"{folder}/grads.pth")


def test_distributed_gradients_are_the_means_of_the_processes(tmp_path):
    in_two_processes(_train_distributed, tmp_path, "both")
    ours = torch.load(tmp_path / "grads.pth")
    ours = {name.removeprefix("module."): grad for name, grad in ours.items() if name != "loss"}
    plain = pair("both")[1].train()
    sum(loss_of(plain(x)) / 2 for x in image(2).split(1)).backward()
    assert_near(ours, {name: param.grad for name, param in plain.named_parameters()})
