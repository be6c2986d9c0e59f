"""Swin Transformer with a choice of token mixers: MMDetection's own, and DWNet."""

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.errors import ConfigError, WeightsError
from mmconvnext.models.swin import DynamicDepthwiseConv, MixerSwinTransformer

SMALL = {"embed_dims": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
# Parameters in M with a classifier of 1,000 classes and G multiply-adds at 224 x 224: FACTS
# section 9; the published ones of DWNet are 24 and 51 M, and 3.8 G of both.
COSTS = {"window": (28.29, 4.49), "depthwise": (24.17, 3.727), "dynamic": (51.1, 3.754)}


def build(token_mixer: str, **arguments) -> MixerSwinTransformer:
    torch.manual_seed(0)
    cfg = {"type": "MixerSwinTransformer", "token_mixer": token_mixer, **SMALL, **arguments}
    return MODELS.build(cfg)


@pytest.mark.parametrize("token_mixer", COSTS)
def test_costs_what_was_published(token_mixer):
    model = MixerSwinTransformer(token_mixer, out_indices=(3,)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        (features,) = model(torch.rand(1, 3, 224, 224))
        functional.linear(features.mean((2, 3)), torch.zeros(1000, 768))
    params = sum(p.numel() for p in model.parameters()) + 769_000
    expected_params, expected_flops = COSTS[token_mixer]
    assert params / 1e6 == pytest.approx(expected_params, abs=0.05 if "y" in token_mixer else 0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected_flops, abs=0.005)


@pytest.mark.parametrize("token_mixer", COSTS)
@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
def test_every_parameter_learns(token_mixer, size):
    model = build(token_mixer).train()
    model.init_weights()
    outputs = model(torch.rand(2, 3, *size))
    rows = [-(-size[0] // 4), -(-size[1] // 4)]
    for stage, output in enumerate(outputs):
        assert output.shape == (2, 16 * 2**stage, *rows)
        rows = [-(-side // 2) for side in rows]
    sum((output * torch.rand_like(output)).sum() for output in outputs).backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_window_is_that_of_mmdetection():
    model, theirs = build("window").eval(), SwinTransformer(**SMALL)
    theirs.eval()
    theirs.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64)
    for ours, other in zip(model(image), theirs(image), strict=True):
        assert torch.equal(ours, other)


def test_dynamic_filters_are_each_images_own():
    torch.manual_seed(0)
    conv = DynamicDepthwiseConv(8, 7).eval()
    nn.init.normal_(conv.bias)
    x = torch.randn(3, 8, 9, 12)
    for image, output in zip(x, conv(x), strict=True):
        pooled = image.mean((1, 2))[None, :, None, None]
        filters = conv.conv2(conv.bn(conv.conv1(pooled)).relu()).view(8, 1, 7, 7)
        expected = functional.conv2d(image[None], filters, conv.bias, padding=3, groups=8)
        torch.testing.assert_close(output[None], expected)


@pytest.mark.parametrize("token_mixer", ["depthwise", "dynamic"])
def test_checkpoints_of_the_original_code_load(token_mixer, tmp_path):
    source = build(token_mixer)
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    official = {"head.weight": torch.rand(3, 128), "norm.weight": torch.rand(128)}
    for name, tensor in source.state_dict().items():
        key = name.replace("stages.", "layers.", 1).replace(".attn.", ".attn2conv.")
        key = key.replace(".norm2.bn.", ".bn.").replace(
            "patch_embed.projection", "patch_embed.proj"
        )
        key = key.replace("ffn.layers.0.0.", "mlp.fc1.").replace("ffn.layers.1.", "mlp.fc2.")
        # The order of the four positions that PatchMerging joins is another, see swin_converter.
        if "downsample" in key:
            parts = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)
            tensor = parts[..., [0, 2, 1, 3], :].flatten(-2)
        if not name.startswith("norm"):
            official[key] = tensor
    path = tmp_path / "dwnet.pth"
    torch.save({"model": official}, path)
    init_cfg = ConfigDict(type="Pretrained", checkpoint=str(path))
    model = build(token_mixer, init_cfg=init_cfg, convert_weights=True)
    model.init_weights()
    loaded = model.state_dict()
    for name, tensor in source.state_dict().items():
        assert name.startswith("norm") or torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize(("source", "target"), [("window", "depthwise"), ("depthwise", "dynamic")])
def test_weights_of_another_mixer_are_refused(source, target):
    with pytest.raises(WeightsError, match=rf"token_mixer='{target}' lack \d+ tensors"):
        build(target).load_state_dict(build(source).state_dict(), strict=False)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="token_mixer='pool' must be one of window, depthwise, "):
        build("pool")
    with pytest.raises(ConfigError, match="window_size=8 must be odd"):
        build("depthwise", window_size=8)
