import copy

import pytest
import torch
from torch import nn

from mmconvnext.models import ConvNeXt, convnext, tiles
from mmconvnext.variants import VARIANTS
from tests.models import peers
from tests.models.common import SMALL, assert_all_near, distance, image, saved
from tests.models.peers import randomise

# FACTS section 1: no classifier, four output norms, layer scale.
PARAMETERS = {
    "atto": 3_375_080,
    "femto": 4_833_456,
    "pico": 8_533_568,
    "nano": 14_953_680,
    "tiny": 27_821_472,
    "small": 49_456_032,
    "base": 87_568_256,
    "large": 196_233_024,
    "xlarge": 348_151_552,
    "huge": 657_130_144,
}


def small(**kwargs) -> ConvNeXt:
    torch.manual_seed(0)
    return ConvNeXt(SMALL, **kwargs)


@pytest.mark.parametrize("arch", VARIANTS)
def test_parameter_counts_are_exact(arch):
    with torch.device("meta"):
        model = ConvNeXt(arch)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


@pytest.fixture(params=["auto", "fused", "fused, in many tiles"])
def fused(request, monkeypatch) -> bool | str:
    """How blocks are computed: as small as maps are here, "auto" means layer by layer."""
    if request.param == "fused, in many tiles":
        monkeypatch.setattr(tiles, "TILE_BYTES", 0)
        monkeypatch.setattr(tiles, "MIN_POSITIONS", 40)
    return "auto" if request.param == "auto" else True


# The depths of the variants at a quarter of their widths, which nothing but the time depends on.
NARROW = {
    name: {"depths": depths, "widths": tuple(width // 4 for width in widths)}
    for name, (depths, widths) in VARIANTS.items()
    if name in ("tiny", "small", "base")
}


@pytest.mark.parametrize(
    ("peer", "arch", "options"),
    [
        *((peer, arch, {}) for peer in ("timm", "torchvision") for arch in NARROW.values()),
        ("timm", SMALL, {"use_grn": True, "layer_scale_init_value": 0}),
    ],
    ids=str,
)
def test_equals_independent_implementations_forward_and_backward(arch, options, peer, fused):
    pytest.importorskip(peer)
    ours = ConvNeXt(arch, fused=fused, **options).eval()
    randomise(ours)
    layers = [layer.eval() for layer in getattr(peers, f"{peer}_layers")(ours)]
    shared = peers.share_weights(ours, layers)
    x = image(2 if arch is SMALL else 1, 64, 64)
    ours_x, peer_x = x.clone().requires_grad_(), x.clone().requires_grad_()

    features = []
    for stage in ours.stages:
        stage.register_forward_hook(lambda _m, _i, out: features.append(out))
    ours(ours_x)
    y = peer_x
    expected = [y := layer(y) for layer in layers]
    assert_all_near(features, expected, 1e-4)

    weights = [torch.randn(f.shape, generator=torch.Generator().manual_seed(2)) for f in expected]
    for maps in (features, expected):
        sum((f * w).sum() for f, w in zip(maps, weights, strict=True)).backward()
    assert distance(ours_x.grad, peer_x.grad) < 1e-4
    for name, (own, theirs) in shared.items():
        assert distance(own.grad, theirs.grad.reshape(own.shape)) < 1e-4, name


def test_output_norms_are_layer_norms_of_the_stages():
    model = small().eval()
    randomise(model)
    stages = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _m, _i, out: stages.append(out))
    outs = model(image())
    for index, (out, stage) in enumerate(zip(outs, stages, strict=True)):
        norm = getattr(model, f"norm{index}")
        expected = nn.functional.layer_norm(
            stage.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, 1e-6
        )
        torch.testing.assert_close(out, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("use_grn", [False, True])
def test_both_memory_formats_give_the_same(use_grn):
    model = small(use_grn=use_grn).eval()
    randomise(model)
    torch.testing.assert_close(model(image()), model(image().to(memory_format=torch.channels_last)))


def test_checkpointing_changes_neither_features_nor_gradients():
    results = []
    for with_cp in (False, True):
        model = small(drop_path_rate=0.5, with_cp=with_cp).train()
        torch.manual_seed(3)
        outs = model(image())
        sum((o**2).sum() for o in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("fused", [True, False])
def test_checkpointing_keeps_fewer_activations(fused):
    models = small(with_cp=True, fused=fused), small(fused=fused), small(fused=False)
    kept = [sum(saved(m.train(), image(), m.parameters()).values()) for m in models]
    assert kept[0] < min(kept[1], 0.5 * kept[2])


def test_exports_with_dynamic_size():
    model = small(use_grn=True).eval()
    # a map of one pixel has other strides, and torch.export keeps it apart
    height, width = (torch.export.Dim(name, min=2, max=8) for name in "hw")
    program = torch.export.export(
        model, (image(),), dynamic_shapes=({2: 32 * height, 3: 32 * width},)
    )
    other = image(2, 96, 160)
    assert_all_near(program.module()(other), model(other), 1e-4)


def test_eval_is_deterministic_and_training_stochastic_only_in_drop_path():
    def repeats(model: ConvNeXt) -> bool:
        return all(map(torch.equal, model(image(8)), model(image(8))))

    assert repeats(small(drop_path_rate=0.9).eval())
    assert not repeats(small(drop_path_rate=0.9).train())
    assert repeats(small(drop_path_rate=0.0).train())


@pytest.mark.parametrize(("out_indices", "num_blocks"), [((0, 1, 2, 3), 6), ((1,), 2)])
def test_drop_path_grows_linearly_over_all_blocks_whatever_is_built(out_indices, num_blocks):
    model = small(drop_path_rate=0.5, out_indices=out_indices)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5][:num_blocks])


@pytest.mark.parametrize("out_indices", [(0,), (2,), (1, 3), (0, 1, 2, 3)])
def test_builds_only_what_out_indices_need(out_indices):
    model = small(out_indices=out_indices)
    outs = model(image())
    shapes = [(2, width, 64 >> i + 2, 96 >> i + 2) for i, width in enumerate(SMALL["widths"])]
    assert [tuple(o.shape) for o in outs] == [shapes[i] for i in out_indices]
    assert len(model.stages) == len(model.downsample_layers) == max(out_indices) + 1
    sum(o.sum() for o in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("frozen_stages", range(-1, 5))
def test_frozen_stages_freeze_as_in_mmdetections_resnet(frozen_stages):
    model = small(drop_path_rate=0.5, frozen_stages=frozen_stages)
    assert model.train() is model
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    prefixes = ["downsample_layers.0."] if frozen_stages >= 0 else []
    for stage in range(max(frozen_stages, 0)):
        prefixes += [f"downsample_layers.{stage}.", f"stages.{stage}."]
    expected = {n for n, _ in model.named_parameters() if n.startswith(tuple(prefixes or ["-"]))}
    assert frozen == expected
    for stage in range(4):
        assert model.stages[stage].training == (stage >= frozen_stages)
    model.eval()
    assert not model.stages[3].training


def test_initialisation_is_the_papers():
    model = ConvNeXt("atto", layer_scale_init_value=0.25)
    weights = torch.cat(
        [m.weight.flatten() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(param == 0), name
        elif name.endswith("gamma"):
            assert torch.all(param == 0.25), name
        elif "norm" in name:
            assert torch.all(param == 1), name


def test_init_weights_without_a_checkpoint_keeps_the_initialisation():
    model = small()
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_other_channels_and_kernels():
    outs = ConvNeXt(SMALL, in_channels=5, kernel_size=3)(torch.randn(1, 5, 64, 64))
    assert [o.shape[-1] for o in outs] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"in_channels": 0}, "in_channels=0"),
        ({"kernel_size": 4}, "kernel_size=4 must be an odd"),
        ({"kernel_size": -7}, "kernel_size=-7"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0 must be a number in \[0, 1\)"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate='0.1'"),
        ({"layer_scale_init_value": -1}, "layer_scale_init_value=-1"),
        ({"layer_scale_init_value": None}, "layer_scale_init_value=None"),
        ({"out_indices": ()}, r"out_indices=\(\)"),
        ({"out_indices": (0, 4)}, r"out_indices=\(0, 4\).*\(0, 1, 2, 3\)"),
        ({"out_indices": (2, 1)}, r"out_indices=\(2, 1\).*ascending"),
        ({"out_indices": (1, 1)}, r"out_indices=\(1, 1\)"),
        ({"out_indices": 3}, "out_indices=3"),
        ({"out_indices": (0, True)}, r"out_indices=\(0, True\)"),
        ({"frozen_stages": 1.0}, "frozen_stages=1.0 must be"),
        ({"frozen_stages": 5}, r"frozen_stages=5 must be one of \(-1, 0, 1, 2, 3, 4\)"),
        ({"frozen_stages": -2}, "frozen_stages=-2"),
        ({"frozen_stages": True}, "frozen_stages=True"),
        ({"fused": "always"}, "fused='always' must be 'auto', True or False"),
    ],
)
def test_wrong_arguments_name_themselves_their_value_and_the_choices(kwargs, says):
    with pytest.raises(ValueError, match=says):
        ConvNeXt(SMALL, **kwargs)


def test_fusion_status_gives_reasons_and_the_log_says_them_once(monkeypatch):
    logged = []
    monkeypatch.setattr(convnext, "print_log", lambda text, logger: logged.append((text, logger)))
    model = small(fused=True)
    model.stages[2][1].norm.register_forward_hook(lambda *_: None)
    status = model.fusion_status(image())
    assert status.pop("stages.2.1") == "norm replaced, changed or with hooks"
    assert status == dict.fromkeys(f"stages.{i}" for i in ("0.0", "1.0", "2.0", "2.2", "3.0"))
    assert set(small(fused=False).fusion_status(image()).values()) == {"fused=False"}
    assert logged == []
    for _ in range(2):
        model(image())
    line = "5 of 6 blocks are fused; 1 layer by layer (norm replaced, changed or with hooks)"
    assert logged == [(f"ConvNeXt: {line}", "current")]
