"""Backbones whose blocks have other hidden channels than four times the width (after pruning)."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn.bricks import DropPath

from mmconvnext.models import ConvNeXt, fused_block
from mmconvnext.models.block import Block
from mmconvnext.models.fused_block import FusedBlock
from mmconvnext.weights.matching import describe, explain_incomplete
from tests.models.common import KINDS, SMALL, assert_all_near, image
from tests.models.test_fused_block import assert_same, values

PRUNED = {**SMALL, "hidden": ((24,), (8,), (16, 100, 8), (120,))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [5, 8, 40])
def test_a_block_of_any_hidden_width_is_the_same_in_tiles(kind, hidden):
    gamma, use_grn = KINDS[kind]
    arguments = (6, 7, DropPath(0.0), gamma, use_grn, hidden)
    fused, plain = FusedBlock(*arguments, fused=True), Block(*arguments)
    with torch.no_grad():
        for param in plain.parameters():
            param.add_(0.3 * torch.randn_like(param))
    fused.load_state_dict(plain.state_dict())
    x = values(2, 6, 12, 9)
    assert fused.why_not_fused(x) is None
    assert plain.pwconv1.weight.shape == (hidden, 6)
    assert_same((fused, plain), x)


def test_what_is_fused_depends_on_the_hidden_channels_that_there_are(monkeypatch):
    monkeypatch.setattr(fused_block, "FUSED_FROM_BYTES", 4 * 10 * 10 * 24)
    monkeypatch.setattr(fused_block, "TRAINED_FUSED_FROM_BYTES", 4 * 10 * 10 * 24)
    wide, narrow = (FusedBlock(6, 7, DropPath(0.0), 1.0, False, n) for n in (24, 23))
    assert wide.why_not_fused(torch.zeros(1, 6, 10, 10)) is None
    assert "hidden map has less" in narrow.why_not_fused(torch.zeros(1, 6, 10, 10))


@pytest.mark.parametrize("kwargs", [{}, {"use_grn": True, "layer_scale_init_value": 0.0}])
def test_a_backbone_with_hidden_widths(kwargs):
    backbone = ConvNeXt(PRUNED, fused=True, **kwargs)
    shapes = [[len(block.pwconv1.bias) for block in stage] for stage in backbone.stages]
    assert shapes == [*map(list, PRUNED["hidden"])]
    plain = ConvNeXt(PRUNED, fused=False, **kwargs)
    plain.load_state_dict(copy.deepcopy(backbone.state_dict()))
    assert set(backbone.fusion_status(image()).values()) == {None}
    assert_all_near(backbone(image()), plain(image()), 1e-5)


def test_a_file_of_a_pruned_backbone_is_recognised():
    state = ConvNeXt(PRUNED, use_grn=True, layer_scale_init_value=0.0).state_dict()
    spec = describe(state)
    assert spec.arch == PRUNED
    assert str(spec).endswith("pruned to 276 of 512 hidden channels")
    assert explain_incomplete(state) is None
    del state["stages.2.1.pwconv1.weight"]
    assert "Missing: stages.2.1.pwconv1.weight" in explain_incomplete(state)


def test_the_error_of_another_backbone_has_the_arch_to_set():
    state = ConvNeXt(PRUNED).state_dict()
    with pytest.raises(
        ValueError, match=r"set arch=\{.*'hidden': \(\(24,\), \(8,\), \(16, 100, 8\)"
    ):
        ConvNeXt(SMALL).load_state_dict(state)
