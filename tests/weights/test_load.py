"""Into a backbone, by whatever way, strictly and with one line."""

import copy
import re
from collections import OrderedDict

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from safetensors.torch import save_file
from torch import nn

from mmconvnext.errors import UnsafeCheckpointError, WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.weights.load import load_matched, load_pretrained, match_backbone
from tests.weights.small_files import KIND, backbone, official, timm


def pretrained(**kwargs) -> dict:
    return {"type": "Pretrained", **kwargs}


def same(model: ConvNeXt, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[k], state[k]) for k in own if not k.startswith("norm"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s},
        lambda s: {"state_dict": s, "meta": {"epoch": 3}},
        lambda s: s,
        lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()}},
    ],
    ids=["official", "mmengine", "bare", "inside a detector"],
)
def test_a_classifiers_weights_all_arrive(tmp_path, write, wrap, lines):
    state = official()
    model = backbone(init_cfg=pretrained(checkpoint=write(wrap(state))))
    model.init_weights()
    assert same(model, state)
    (line,) = lines()
    total, own = len(model.state_dict()), len(model.state_dict()) - 8
    assert f"backbone: loaded {own} of {total} tensors" in line
    assert "new, not in the file: norm0.bias" in line
    assert "not needed: head.bias, head.weight, norm.bias, norm.weight" in line
    assert f"from {tmp_path / 'weights.pth'} (official layout, V1 {KIND})" in line


@pytest.mark.parametrize(
    ("init_cfg", "says"),
    [
        ([pretrained(checkpoint="a.pth"), {"type": "Constant", "val": 0.5}], "remove .*'Constant'"),
        ([pretrained(checkpoint="a.pth"), pretrained(checkpoint="b.pth")], r"remove .*b\.pth"),
        (pretrained(checkpont="a.pth"), "has no 'checkpont'; choose of checkpoint, prefix"),
        (pretrained(), "checkpoint=None must be a path, a URL, a name such"),
        *(
            (pretrained(checkpoint=wrong), rf"checkpoint={re.escape(repr(wrong))} must be a path")
            for wrong in (3, [3], "", [])
        ),
    ],
)
def test_mistakes_in_init_cfg_are_named(init_cfg, says):
    with pytest.raises(WeightsError, match=f"init_cfg of the backbone: .*{says}"):
        backbone(init_cfg=init_cfg).init_weights()


def test_stages_that_are_not_built_are_left_out(write):
    model = backbone(out_indices=(0, 1))
    load_pretrained(model, write(official()))
    assert same(model, official())


@pytest.mark.parametrize(
    ("gone", "more", "says"),
    [
        ("stages.2.1.gamma", {}, "Missing: stages.2.1.gamma 24."),
        (None, {"stages.0.0.more": (3,)}, "Unexpected: stages.0.0.more 3."),
        (
            None,
            {"stages.0.0.pwconv1.weight": (32, 9)},
            "Of another shape: stages.0.0.pwconv1.weight 32x9 for 32x8.",
        ),
        (
            "stages.1.0.norm.bias",
            {"stages.1.0.nrom.bias": (16,)},
            "Missing: stages.1.0.norm.bias 16. Unexpected: stages.1.0.nrom.bias 16.",
        ),
    ],
    ids=["missing", "unexpected", "another shape", "renamed"],
)
def test_anything_else_is_refused_and_changes_nothing(write, gone, more, says):
    model = backbone()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    file = official() | {k: torch.ones(v) for k, v in more.items()}
    file.pop(gone, None)
    says = rf"cannot load the backbone from .*weights\.pth.*{re.escape(says)}"
    with pytest.raises(WeightsError, match=says):
        load_pretrained(model, write(file))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_variant_is_named_with_the_fix():
    with torch.device("meta"):
        small, tiny = ConvNeXt("small"), ConvNeXt("tiny")
    says = (
        r"FILE \(official layout, V1 small\): The file is V1 small, the backbone V1 tiny: set "
        r"arch='small', the neck's in_channels=\[96.*Unexpected: stages\.2\.9\.gamma 384.*"
        "and 158 more"
    )
    with pytest.raises(WeightsError, match=says):
        match_backbone(tiny, small.state_dict(), "FILE")
    says = (
        r": set use_grn=True, layer_scale_init_value=0\.0\. Missing: stages\.0\.0\.gamma 8, "
        r"stages\.1\.0\.gamma 16.*Unexpected: stages\.0\.0\.grn\.gamma 1x1x1x32"
    )
    with pytest.raises(WeightsError, match=says):
        match_backbone(backbone(), official(v2=True), "FILE")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet18", "no ConvNeXt of a known layout .*timm.*; it looks like a ResNet; its"),
        ("vit_tiny_patch16_224", "it looks like a Vision Transformer"),
        ("swin_tiny_patch4_window7_224", "it looks like a Swin Transformer"),
        ("convnext_atto_ols", r"an overlapping stem \(timm's _ols, of two convolutions\)"),
        ("convnext_zepto_rms", r"RMS norm \(timm's _rms: norms without a bias\)"),
        ("convnext_zepto_rms_ols", "an overlapping stem .* and RMS norm"),
        ("test_convnext", r"an eps of 1e-5.* \(timm's test_convnext\)"),
        ("convnext_xxlarge", r"an eps of 1e-5.* \(timm's convnext_xxlarge\)"),
    ],
)
def test_other_architectures_are_refused_by_name(name, says):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
        model = ConvNeXt("atto")
        # all else would fit these
        if name == "convnext_xxlarge":
            model = ConvNeXt({"depths": (3, 4, 30, 3), "widths": (384, 768, 1536, 3072)})
        if name == "test_convnext":
            model = ConvNeXt({"depths": (1, 2, 4, 2), "widths": (24, 32, 48, 64)})
    with pytest.raises(WeightsError, match=says):
        match_backbone(model, state, "FILE")


def test_our_own_model_of_such_depths_can_be_loaded_again():
    arch = {"depths": (1, 1, 1, 1), "widths": (32, 64, 96, 128)}
    assert ConvNeXt(arch).load_state_dict(ConvNeXt(arch).state_dict()).missing_keys == []


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_half_an_output_norm_is_a_loss(leaf):
    state = backbone().state_dict()
    del state[f"norm2.{leaf}"]
    with pytest.raises(WeightsError, match=rf"Missing: norm2\.{leaf} 24\."):
        match_backbone(backbone(), state, "FILE")
    del state["norm2.weight" if leaf == "bias" else "norm2.bias"]
    model = backbone()
    line = match_backbone(model, state, "FILE").backbones[model]
    assert "new, not in the file: norm2.bias, norm2.weight" in line


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_only_floating_point_numbers_are_weights(dtype):
    state = backbone().state_dict()
    state["stages.0.0.gamma"] = state["stages.0.0.gamma"].to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"numbers: stages\.0\.0\.gamma {name}\."):
        match_backbone(backbone(), state, "FILE")


def test_a_safetensors_file_by_another_name_as_a_path_of_pathlib(tmp_path):
    save_file(official(), tmp_path / "x.pth")
    model = backbone(init_cfg=[pretrained(checkpoint=tmp_path / "x.pth")])
    model.init_weights()
    assert same(model, official())


class Hostile:
    """A pickle that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_file_is_refused_and_not_run(tmp_path, write):
    target = tmp_path / "created"
    path = write({"model": official(), "more": Hostile(target)})
    with pytest.raises(UnsafeCheckpointError, match="refused, and nothing in it was run"):
        load_pretrained(backbone(), path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the file is as hostile as it says
    assert target.exists()


def test_half_precision_files_arrive_in_single_precision(write):
    state = {k: v.half() for k, v in official().items()}
    model = backbone()
    load_pretrained(model, write(state))
    assert model.stages[0][0].gamma.dtype is torch.float32
    assert same(model, {k: v.float() for k, v in state.items()})


def test_other_numbers_of_channels_only_on_request(write, lines):
    model = backbone(in_channels=4)
    path = write(official())
    with pytest.raises(WeightsError, match=r"adapt=\['in_channels'\].*8x3x4x4 for 8x4x4x4"):
        load_pretrained(model, path)
    load_pretrained(model, path, adapt=["in_channels"])
    assert lines()[0].endswith("; adapted: in_channels 3 -> 4")


# every way into a backbone


def test_torchs_own_loading_is_reported_and_converted(lines):
    model, state = copy.deepcopy(backbone()), timm()
    result = model.load_state_dict(state, strict=False)
    assert len(result.missing_keys) == 8
    assert all(key.startswith("norm") for key in result.missing_keys)
    assert not result.unexpected_keys
    assert torch.equal(model.norm0.weight, backbone().norm0.weight)
    weight = state["stages.0.blocks.0.mlp.fc1.weight"]
    assert torch.equal(model.stages[0][0].pwconv1.weight, weight)
    assert f"of the parameters) from a state dict (timm layout, V1 {KIND})" in lines()[0]


def test_a_part_is_refused_whatever_torch_is_asked_for():
    """torch tells no module whether it is asked to be strict."""
    model = backbone()
    part = {"stages.0.0.dwconv.weight": torch.zeros(8, 1, 7, 7)}
    for strict in (True, False):
        with pytest.raises(WeightsError, match=r"Missing: downsample_layers\.0\.0\.weight"):
            model.load_state_dict(part, strict=strict)


def test_mmengines_loading_is_strict_and_reported(lines):
    detector = nn.Module()
    detector.backbone = backbone()
    state = {f"backbone.{k}": v for k, v in backbone(1).state_dict().items()}
    load_state_dict(detector, OrderedDict(state))
    assert same(detector.backbone, backbone(1).state_dict())
    assert len(lines()) == 1
    del state["backbone.stages.0.0.gamma"]
    with pytest.raises(WeightsError, match=r"Missing: stages\.0\.0\.gamma"):
        load_state_dict(detector, OrderedDict(state))


def test_what_happens_to_a_fitted_state_dict_on_its_way_is_noticed(lines):
    """Hooks edit checkpoints."""
    model, state = backbone(), OrderedDict(backbone(1).state_dict())
    matched = {model: "backbone: loaded all of it"}
    load_matched(model, state, matched)
    assert lines() == ["backbone: loaded all of it"]
    assert not hasattr(state, "_metadata")  # which would be saved with a checkpoint
    gamma = state.pop("stages.2.0.gamma")
    with pytest.raises(WeightsError, match=r"Missing: stages\.2\.0\.gamma 24"):
        load_matched(model, state, matched)
    state["stages.2.0.gamma"] = gamma[1:]
    with pytest.raises(WeightsError, match=r"Of another shape: stages\.2\.0\.gamma 23 for 24"):
        load_matched(model, state, matched)


def test_a_detector_without_a_backbone_is_no_silent_load():
    detector = nn.Module()
    detector.backbone = backbone()
    with pytest.raises(WeightsError, match=r"the state dict has nothing under 'backbone\.'"):
        detector.load_state_dict({"neck.weight": torch.ones(1)}, strict=False)
