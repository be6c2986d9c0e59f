"""The walk from ResNet to ConvNeXt: what each step costs, and both its ends."""

from dataclasses import fields

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

from mmconvnext.analysis.walk import cost
from mmconvnext.models import ConvNeXt, ModernizedResNet
from mmconvnext.models.roadmap import STEPS, Design
from mmconvnext.optim import LayerDecayOptimWrapperConstructor
from tests.models import peers
from tests.models.common import distance

# With a classifier of 1,000 classes, in M, and G multiply-adds at 224 x 224: FACTS section 9.
# Those of the steps themselves: tests/cli/test_roadmap.py.
KERNELS = {
    "tiny": {5: (25.72, 4.10), 9: (26.05, 4.21), 11: (26.29, 4.29)},
    "base": {5: (83.37, 14.70), 9: (84.33, 14.95), 11: (85.02, 15.13)},
}
SMALL = {"depths": (1, 1, 2, 1), "width": 8}


def small(step, **arguments) -> ModernizedResNet:
    torch.manual_seed(0)
    return ModernizedResNet(step, switches=SMALL, **arguments)


@pytest.mark.parametrize(("regime", "size"), [(r, k) for r in KERNELS for k in KERNELS[r]])
def test_other_kernels_cost_what_the_paper_says(regime, size):
    found = cost(step="kernel_7", regime=regime, switches={"kernel_size": size})
    assert found == pytest.approx(KERNELS[regime][size], abs=0.01)


def test_the_layer_scale_is_the_last_of_the_parameters():
    assert cost(layer_scale_init_value=0)[0] == pytest.approx(28.58, abs=0.005)


def gradients(model, outs) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sum((out * torch.randn(out.shape, dtype=out.dtype)).sum() for out in outs).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", [True, False])
def test_the_first_step_is_torchvisions_resnet(mode):
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.resnet import Bottleneck, ResNet

    # in double precision: rounding moves activations to the other side of ReLU's kink
    theirs = ResNet(Bottleneck, [1, 1, 2, 1], num_classes=2).double()
    peers.randomise(theirs)
    ours = ModernizedResNet("resnet", switches={"depths": (1, 1, 2, 1)}).double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96, dtype=torch.double)
    # train() and eval() of an extractor do not reach the model's own
    nodes = [f"layer{i}" for i in range(1, 5)]
    extractor = create_feature_extractor(theirs, nodes).train(mode)
    expected = [*extractor(images).values()]
    found = ours.train(mode)(images)
    assert max(map(distance, found, expected)) < 1e-12
    theirs_grads = gradients(extractor, expected)
    ours_grads = gradients(ours, found)
    assert len(ours_grads) == len(theirs_grads) == len([*ours.parameters()])
    pairs = (("conv1.weight", "downsample_layers.0.0.weight"),)
    pairs += (("layer3.1.conv2.weight", "stages.2.1.dwconv.weight"),)
    pairs += (("layer2.0.downsample.0.weight", "stages.1.0.shortcut.0.weight"),)
    for name, own in pairs:
        assert distance(ours_grads[own], theirs_grads[name]) < 1e-10


def test_the_last_step_is_convnext():
    arch = {"depths": SMALL["depths"], "widths": (8, 16, 32, 64)}
    convnext = ConvNeXt(arch, drop_path_rate=0.0, layer_scale_init_value=0.5)
    peers.randomise(convnext)
    ours = small("separate_downsampling", layer_scale_init_value=0.5)
    assert set(ours.state_dict()) == set(convnext.state_dict())
    ours.load_state_dict(convnext.state_dict())
    images = torch.randn(2, 3, 64, 96)
    expected, found = convnext(images), ours(images)
    assert max(map(distance, found, expected)) < 1e-5
    wanted = gradients(convnext, expected)
    assert max(distance(g, wanted[name]) for name, g in gradients(ours, found).items()) < 1e-4


def test_the_last_step_loads_timms_weights():
    from timm.models.convnext import ConvNeXt as Theirs

    widths = (8, 16, 32, 64)
    theirs = Theirs(depths=SMALL["depths"], dims=widths, ls_init_value=0.5, num_classes=5)
    peers.randomise(theirs)
    ours = small("separate_downsampling", layer_scale_init_value=0.5)
    ours.load_state_dict(theirs.state_dict(), strict=False)  # without the output norms
    images = torch.randn(2, 3, 64, 96)
    expected = theirs.stages(theirs.stem(images))
    ours.norm3 = nn.Identity()
    assert distance(ours(images)[-1], expected) < 1e-5


@pytest.mark.parametrize("step", STEPS)
def test_each_step_trains_freezes_and_reloads(step, tmp_path):
    model = small(step, frozen_stages=1, drop_path_rate=0.1, with_cp=True, norm_eval=True).train()
    outs = model(torch.randn(2, 3, 64, 64))
    assert [out.shape[1] for out in outs] == [*model.out_channels]
    assert [out.shape[-1] for out in outs] == [16, 8, 4, 2]
    gradients(model, outs)
    frozen = ("downsample_layers.0", "stages.0.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
        assert (parameter.grad is None) == name.startswith(frozen), name
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.save(model.state_dict(), tmp_path / "step.pth")
    again = small(step, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "step.pth")})
    again.init_weights()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("switch", [f.name for f in fields(Design) if not f.default])
def test_a_switch_works_without_those_before_it(switch):
    model = ModernizedResNet("resnet", switches={**SMALL, switch: True})
    outs = model(torch.randn(2, 3, 64, 64))
    assert [tuple(out.shape[1:3]) for out in outs] == [
        *zip(model.out_channels, (16, 8, 4, 2), strict=True)
    ]
    gradients(model, outs)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_layer_wise_decay_knows_each_parameter():
    model = nn.Module()
    model.backbone = small("patchify")
    constructor = LayerDecayOptimWrapperConstructor(
        ConfigDict(type="OptimWrapper", optimizer={"type": "AdamW", "lr": 1.0}),
        ConfigDict(decay_rate=0.5, decay_type="layer_wise", num_layers="auto"),
    )
    rates = {g["lr"] for g in constructor(model).optimizer.param_groups}
    assert rates == {0.5**n for n in range(1, 6)}  # output norms, which would be the last, are none
    assert model.backbone.layer_id("downsample_layers.0.0.weight") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"step": "resnet50"}, "step='resnet50' must be one of resnet, stage_ratio"),
        ({"regime": "small"}, "regime='small' must be one of tiny, base"),
        ({"switches": {"kernels": 5}}, "switches='kernels' must be one of depths, width"),
        ({"switches": {"kernel_size": 4}}, "kernel_size=4 must be an odd"),
        ({"out_indices": (1, 0)}, "out_indices"),
    ],
)
def test_wrong_arguments_name_the_choices(arguments, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build({"type": "ModernizedResNet", **arguments})
