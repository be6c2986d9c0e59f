import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmconvnext.models import ConvNeXt
from mmconvnext.optim import LayerDecayOptimWrapperConstructor

SMALL = {"depths": (1, 1, 3, 1), "widths": (8, 16, 24, 32)}
BASE_LR, BASE_WD = 2e-4, 0.05
OPTIMIZER = {"type": "AdamW", "lr": BASE_LR, "weight_decay": BASE_WD}


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.Conv2d(32, 4, 1), nn.BatchNorm2d(4))
        self.scale = nn.Parameter(torch.tensor(1.0))


def build(model: nn.Module, optimizer: dict = OPTIMIZER, **paramwise_cfg):
    constructor = LayerDecayOptimWrapperConstructor({"optimizer": optimizer}, paramwise_cfg)
    return constructor(model).optimizer


def detector(arch="small", **kwargs) -> Detector:
    """One without memory."""
    with torch.device("meta"):
        return Detector(ConvNeXt(arch, **kwargs))


def table(optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name -> (lr scale, weight decay); fails if a parameter is in two groups."""
    rows = {}
    for group in optimizer.param_groups:
        assert len(group["params"]) == len(group["param_names"])
        for name in group["param_names"]:
            assert name not in rows, f"{name} is in two groups"
            rows[name] = (group["lr"] / BASE_LR, group["weight_decay"])
    return rows


def assert_near(rows: dict, expected: dict) -> None:
    assert rows.keys() == expected.keys()
    for name in rows:
        assert rows[name] == pytest.approx(expected[name]), name


def official_exponent(name: str, num_layers: int) -> int:
    """How often the rate is applied, written down from FACTS section 4 as a list of prefixes."""
    rows = [("downsample_layers.0.", 0), ("stages.0.", 1)]
    rows += [("downsample_layers.1.", 2), ("stages.1.", 2), ("downsample_layers.2.", 3)]
    rows += [(f"stages.2.{block}.", 3 + block // 3) for block in range(27)]
    rows += [("downsample_layers.3.", num_layers), ("stages.3.", num_layers)]
    layers = [layer for prefix, layer in rows if name.startswith("backbone." + prefix)]
    assert len(layers) <= 1
    return num_layers + 1 - (layers[0] if layers else num_layers + 1)


@pytest.mark.parametrize(("arch", "num_layers"), [("tiny", 6), ("small", 12)])
@pytest.mark.parametrize("explicit", [False, True])
def test_layer_wise_scales_of_every_parameter(arch, num_layers, explicit):
    model, rate = detector(arch), 0.7
    rows = table(build(model, decay_rate=rate, num_layers=num_layers if explicit else "auto"))
    assert rows.keys() == dict(model.named_parameters()).keys()
    for name, param in model.named_parameters():
        scale, weight_decay = rows[name]
        assert scale == pytest.approx(rate ** official_exponent(name, num_layers)), name
        is_plain = param.ndim > 1 and not name.endswith("bias")
        assert weight_decay == (BASE_WD if is_plain else 0.0), name


def test_equals_mmdetections_constructor():
    """MMDetection's registered rule, on a model whose backbone it recognises by its class name."""
    from mmdet.engine import optimizers

    constructor, model = optimizers.LearningRateDecayOptimizerConstructor, detector()
    paramwise = {"decay_rate": 0.7, "decay_type": "layer_wise", "num_layers": 12}
    expected = table(constructor({"optimizer": OPTIMIZER}, paramwise)(model).optimizer)
    # A scalar has no dimension to decay; their rule forgets it.
    expected["scale"] = (expected["scale"][0], 0.0)
    assert_near(table(build(model, decay_rate=0.7)), expected)


def test_stage_wise_scales():
    rows = table(build(detector(), decay_rate=0.5, decay_type="stage_wise"))
    for name, (scale, _) in rows.items():
        exponent = 0
        if name.startswith("backbone.downsample_layers"):
            exponent = 5
        elif name.startswith("backbone.stages"):
            exponent = 4 - int(name.split(".")[2])
        assert scale == 0.5**exponent, name


def test_stage_wise_with_a_larger_number():
    cfg = {"decay_rate": 0.5, "decay_type": "stage_wise", "num_layers": 6}
    rows = table(build(detector(SMALL), **cfg))
    assert rows["backbone.stages.3.0.gamma"][0] == 0.5**3
    assert rows["neck.0.weight"][0] == 1


def test_wrong_explicit_number_says_what_would_have_happened():
    says = r"num_layers=6 does not fit.*12 layers.*4.16.*0.49.*'auto'"
    with pytest.raises(ValueError, match=says):
        build(detector(), decay_rate=0.7, num_layers=6)


class WithShared(nn.Module):
    """Modules that each of MMEngine's rules is about, beside a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = ConvNeXt(SMALL)
        self.neck = nn.Sequential(nn.Conv2d(32, 4, 1), nn.BatchNorm2d(4))
        self.again = self.neck


def of_mmengine(model: nn.Module, **paramwise_cfg) -> dict[str, tuple[float, float]]:
    """What MMEngine's own constructor gives each parameter."""
    wrapper = DefaultOptimWrapperConstructor({"optimizer": OPTIMIZER}, paramwise_cfg)(model)
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(g["params"][0])]: (g["lr"] / BASE_LR, g["weight_decay"])
        for g in wrapper.optimizer.param_groups
    }


@pytest.mark.parametrize(
    "keys",
    [
        {
            "custom_keys": {
                "backbone.stages": {"lr_mult": 0.5},
                "backbone.stages.3": {"lr_mult": 0.25, "decay_mult": 0.1},
                "neck": {"decay_mult": 2.0},
            }
        },
        {"norm_decay_mult": 0.3, "bias_decay_mult": 0.6},
        {"bias_lr_mult": 2.0},
        {"dwconv_decay_mult": 0.5},
        {"flat_decay_mult": 0.7, "dwconv_decay_mult": 0.5, "bias_decay_mult": 0.6},
        {"bias_lr_mult": 3.0, "custom_keys": {"stages.1": {"lr_mult": 0.5}}},
    ],
    ids=str,
)
def test_multipliers_are_mmengines_where_nothing_decays(keys):
    defaults = {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0, "flat_decay_mult": 0.0}
    model = WithShared()
    expected = of_mmengine(model, **{**defaults, **keys}, bypass_duplicate=True)
    assert_near(table(build(model, decay_rate=1.0, **keys, bypass_duplicate=True)), expected)


def test_multipliers_of_learning_rates_multiply_the_layers():
    plain = table(build(WithShared(), decay_rate=0.5))
    rows = table(build(WithShared(), decay_rate=0.5, bias_lr_mult=3.0))
    norms = ["norm", "neck.1", "downsample_layers.0.1"]
    norms += [f"downsample_layers.{i}.0" for i in "123"]
    for name, (scale, _) in rows.items():
        is_norm = any(norm in name for norm in norms)
        factor = 3.0 if name.endswith("bias") and not is_norm else 1.0
        assert scale == pytest.approx(factor * plain[name][0]), name


def test_custom_lr_mult_multiplies_the_layers_rate_and_keeps_other_options():
    custom_keys = {"stages.3": {"lr_mult": 0.1, "betas": (0.5, 0.9)}}
    groups = build(detector(SMALL), decay_rate=0.5, custom_keys=custom_keys).param_groups
    (group,) = (g for g in groups if "backbone.stages.3.0.gamma" in g["param_names"])
    assert group["lr"] == pytest.approx(BASE_LR * 0.5 * 0.1)
    assert group["betas"] == (0.5, 0.9)


def test_grn_has_no_weight_decay_whatever_its_shape():
    rows = table(build(ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0), decay_rate=0.7))
    grn = {n: wd for n, (_, wd) in rows.items() if ".grn." in n}
    assert len(grn) == 12
    assert set(grn.values()) == {0.0}


def test_any_module_says_what_has_no_weight_decay():
    """Names may have dots, as those of timm's models have."""
    model = detector(SMALL)
    model.neck.no_weight_decay = lambda: {"0.weight"}
    rows = table(build(model, decay_rate=0.7, flat_decay_mult=1.0))
    assert rows["neck.0.weight"][1] == 0
    assert rows["scale"][1] == rows["backbone.stages.0.0.gamma"][1] == BASE_WD


def test_frozen_parameters_are_in_no_group():
    model = detector(SMALL, frozen_stages=2)
    rows = table(build(model, decay_rate=0.7))
    assert rows.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith("backbone.stages.1") for n in rows)


class Teacher(nn.Module):
    """A detector that has another one inside, deeper than `backbone`."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.student = Detector(backbone)


class DistributedStandIn(nn.Module):
    """What distributed wrappers do to names."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    "wrap",
    [lambda model: Teacher(model.backbone), DistributedStandIn, torch.compile, nn.Sequential],
    ids=["inside another", "distributed", "compiled", "sequential"],
)
def test_finds_the_backbone_anywhere(wrap):
    plain = table(build(detector(SMALL), decay_rate=0.5))
    rows = table(build(wrap(detector(SMALL)), decay_rate=0.5))
    assert len(rows) == len(plain)
    ours, expected = (
        {n.split("backbone.", 1)[1]: v for n, v in each.items() if "backbone." in n}
        for each in (rows, plain)
    )
    assert ours == expected


def test_finds_compiled_parts_of_the_backbone():
    plain = table(build(detector(SMALL), decay_rate=0.5))
    model = detector(SMALL)
    model.backbone.stages[2] = torch.compile(model.backbone.stages[2])
    model.backbone = torch.compile(model.backbone)
    rows = table(build(model, decay_rate=0.5))
    assert {n.replace("_orig_mod.", ""): v for n, v in rows.items()} == plain


def test_a_model_without_such_a_backbone_is_refused():
    with pytest.raises(ValueError, match="no backbone that knows its layers in Detector"):
        build(Detector(nn.Conv2d(3, 3, 1)), decay_rate=0.7)


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        ({}, "decay_rate is missing"),
        ({"decay_rate": 0.7, "decayrate": 1}, "unknown 'decayrate'.*custom_keys"),
        ({"decay_rate": 0.7, "_delete_": True}, "_delete_ is left over.*take it out"),
        ({"decay_rate": 0.7, "dcn_offset_lr_mult": 0.1}, "dcn_offset_lr_mult.*use custom_keys="),
        ({"decay_rate": 0.7, "bias_lr_mult": "2"}, "bias_lr_mult='2' must be a number"),
        ({"decay_rate": 0.7, "flat_decay_mult": -1}, "flat_decay_mult=-1"),
        ({"decay_rate": 0.0}, r"decay_rate=0.0 must be a number in \(0, 1\]"),
        ({"decay_rate": 1.5}, "decay_rate=1.5"),
        ({"decay_rate": "0.7"}, "decay_rate='0.7'"),
        ({"decay_rate": 0.7, "decay_type": "layer"}, "decay_type='layer'.*layer_wise, stage_wise"),
        ({"decay_rate": 0.7, "num_layers": 0}, "num_layers=0"),
        ({"decay_rate": 0.7, "num_layers": "12"}, "num_layers='12'"),
        (
            {"decay_rate": 0.7, "num_layers": 3, "decay_type": "stage_wise"},
            "less than the 4 stages",
        ),
    ],
)
def test_wrong_options_are_refused(cfg, says):
    with pytest.raises(ValueError, match=says):
        build(ConvNeXt(SMALL), **cfg)


def test_without_a_base_rate_it_is_refused():
    with pytest.raises(ValueError, match="lr is missing"):
        build(ConvNeXt(SMALL), {"type": "AdamW"}, decay_rate=0.7)


def test_without_weight_decay_the_groups_have_the_optimizers():
    optimizer = build(ConvNeXt(SMALL), {"type": "AdamW", "lr": BASE_LR}, decay_rate=0.7)
    decays = {g["weight_decay"] for g in optimizer.param_groups}
    assert decays == {optimizer.defaults["weight_decay"]}


def test_the_log_is_one_line_a_group(notes):
    optimizer = build(detector(SMALL), decay_rate=0.7)
    lines = [note for note in notes() if note.startswith("layer ")]
    assert len(lines) == len(optimizer.param_groups)
    # Not "lr": --auto-scale-lr changes the groups after this.
    lr = optimizer.param_groups[0]["lr"]
    assert lines[0].startswith(f"layer  0: configured lr {lr:.3g} (x {lr / BASE_LR:.4g}), ")
    total = sum(len(g["params"]) for g in optimizer.param_groups)
    assert sum(int(line.split(" tensors")[0].split()[-1]) for line in lines) == total
