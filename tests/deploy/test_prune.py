"""What is pruned, by which importance, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.deploy import prune
from mmconvnext.errors import ConfigError, UserError
from mmconvnext.models import ConvNeXt
from mmconvnext.optim.layer_decay import layer_assigner
from tests.deploy.conftest import MASK, config
from tests.models.common import assert_all_near, distance, image

ARCH = {"depths": (1, 2, 4, 2), "widths": (8, 16, 24, 32)}
KINDS = {"V1": {}, "V2": {"use_grn": True, "layer_scale_init_value": 0.0}}
SHARES = (0.7, 0.5)
each_kind = pytest.mark.parametrize("kind", KINDS)


def backbone(kind: str = "V1", arch: dict = ARCH, **kwargs) -> ConvNeXt:
    """All parameters are far from where they begin."""
    model = ConvNeXt(arch, fused=False, **KINDS[kind], **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.3 * torch.randn(param.shape, generator=generator))
    return model


def multiply_adds(model: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image())
    return counter.get_total_flops() // 2


def pruned(model: ConvNeXt, kept: prune.Kept, kind: str) -> ConvNeXt:
    smaller = ConvNeXt(prune.arch_of(model, kept), fused=False, **KINDS[kind])
    smaller.load_state_dict(prune.prune_state(model.state_dict(), kept))
    return smaller


@each_kind
@pytest.mark.parametrize("keep", SHARES)
def test_the_share_that_was_asked_for_is_left_of_what_torch_counts(kind, keep):
    model = backbone(kind)
    kept = prune.choose(model, prune.magnitude(model), keep)
    total = prune.costs_of(model).of(model.hidden)
    assert multiply_adds(model) == total * 2 * 2 * 3  # two images of 64 x 96
    left = multiply_adds(pruned(model, kept, kind)) / multiply_adds(model)
    group = prune.GROUP * max(prune.costs_of(model).channel) / total
    assert keep - group - 0.02 < left <= keep


@each_kind
def test_it_computes_what_the_full_network_does_with_the_channels_at_0(kind):
    model = backbone(kind).double()
    kept = prune.choose(model, prune.magnitude(model), 0.5)
    assert any(not len(block) for stage in kept for block in stage), "no block was removed"
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for stage, channels in zip(zeroed.stages, kept, strict=True):
            for index, (block, left) in enumerate(zip(stage, channels, strict=True)):
                gone = torch.ones(block.hidden, dtype=torch.bool)
                gone[left] = False
                block.pwconv1.weight[gone] = 0
                block.pwconv1.bias[gone] = 0
                if gone.all():
                    stage[index] = nn.Identity()
    smaller = pruned(model, kept, kind).double()
    x = image().double()
    with torch.no_grad():
        found, expected, full = (each(x) for each in (smaller, zeroed, model))
    # in double precision GRN's eps of 1e-6 is all that differs
    assert_all_near(found, expected, 1e-5 if kind == "V2" else 1e-12)
    assert distance(found[-1], full[-1]) > 0.01


def test_channels_without_effect_go_first():
    model = backbone()
    with torch.no_grad():
        model.stages[2][1].pwconv2.weight[:, 16:64] = 0
        model.stages[3][0].pwconv1.weight[::2] = 0
        model.stages[2][3].gamma.zero_()
    kept = prune.choose(model, prune.magnitude(model), 0.85)
    assert [*kept[2][1][:16]] == [*range(16)]
    assert not {*kept[2][1].tolist()} & {*range(16, 64)}
    assert len(kept[2][3]) == 0
    assert set(kept[3][0].tolist()) <= {*range(1, 128, 2)} or len(kept[3][0]) > 64


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return sum((out**2).mean() for out in model(x))


@each_kind
def test_taylor_is_the_squared_gradient_of_a_gate_on_each_channel(kind):
    model = backbone(kind)
    detector = nn.Module()
    detector.backbone = model
    batches = [image() * scale for scale in (1.0, 0.5)]
    scores = prune.taylor(detector, (loss_of(model, x) for x in batches))
    block = model.stages[2][1]
    expected = torch.zeros(block.hidden)
    for x in batches:
        gate = torch.ones(block.hidden, requires_grad=True)
        handle = block.pwconv2.register_forward_pre_hook(lambda _, args, g=gate: args[0] * g)
        loss_of(model, x).backward()
        handle.remove()
        expected += gate.grad**2
    torch.testing.assert_close(scores[2][1], expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    ("losses", "says"),
    [([torch.tensor(float("nan"))], "batch 1 is nan"), ([], "no training batch")],
)
def test_an_importance_without_a_finite_loss_is_refused(losses, says):
    detector = nn.Module()
    detector.backbone = backbone()
    with pytest.raises(UserError, match=says):
        prune.taylor(detector, losses)


def test_frozen_stages_stay_and_each_stage_keeps_a_block():
    model = backbone(frozen_stages=2)
    kept = prune.choose(model, prune.magnitude(model), 0.8)
    assert [[len(b) for b in stage] for stage in kept[:2]] == [*map(list, model.hidden[:2])]
    model = backbone()
    least = prune.choose(model, prune.magnitude(model), 0.37)
    assert all(any(len(block) for block in stage) for stage in least)


def test_stages_that_are_not_built_keep_their_numbers():
    model = backbone(out_indices=(0, 2))
    arch = prune.arch_of(model, prune.choose(model, prune.magnitude(model), 0.7))
    assert arch["hidden"][3] == (128, 128)
    ConvNeXt(arch, out_indices=(0, 2))


@pytest.mark.parametrize("keep", [0, 1, 1.5, -0.5, 0.2])
def test_a_share_that_cannot_be_is_refused_with_what_can(keep):
    with pytest.raises(ConfigError, match=rf"--keep {keep:g} must be .* below 1 and .* 0\.3\d\d"):
        prune.check_keep(backbone(), keep)


def test_other_backbones_are_refused():
    detector = nn.Module()
    detector.backbone = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"model\.backbone is a Linear"):
        prune.backbone_of(detector)


def test_a_pruned_detector_trains_by_its_own_depth():
    init_default_scope("mmdet")
    cfg = config(MASK)
    cfg.model.backbone.arch = ARCH
    model = MODELS.build(cfg.model)
    kept = [[torch.arange(8)] * depth for depth in ARCH["depths"]]
    kept[2] = [torch.arange(8), *[torch.arange(0)] * 3]
    cfg.model.backbone.arch = prune.arch_of(model.backbone, kept)
    smaller = MODELS.build(cfg.model)
    smaller.load_state_dict(prune.prune_state(model.state_dict(), kept, "backbone."))
    assert (model.backbone.num_layers, smaller.backbone.num_layers) == (5, 4)
    assign = layer_assigner({"backbone.": smaller.backbone}, 0.5)
    assert assign("backbone.stages.2.0.pwconv1.weight") == (3, 0.25)
    assert torch.equal(smaller.rpn_head.rpn_cls.weight, model.rpn_head.rpn_cls.weight)
