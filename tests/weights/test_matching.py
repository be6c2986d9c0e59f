import pytest
import torch

from mmconvnext.models import ConvNeXt
from mmconvnext.weights.matching import (
    MisfitError,
    describe,
    explain_incomplete,
    match,
)
from tests.weights.small_files import KIND, SMALL


def state(**kwargs) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ConvNeXt(SMALL, **kwargs).state_dict()


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_channels_are_adapted_as_timm_does(channels):
    manipulate = pytest.importorskip("timm.models._manipulate")
    file, own = state(), state(in_channels=channels)
    matched = match(own, file, ["in_channels"])
    key = "downsample_layers.0.0.weight"
    torch.testing.assert_close(
        matched.tensors[key], manipulate.adapt_input_conv(channels, file[key].clone())
    )
    assert matched.adapted == (f"in_channels 3 -> {channels}",)
    assert file[key].shape[1] == 3


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_grey_image_gives_the_same_maps(channels):
    small = ConvNeXt(SMALL)
    other = ConvNeXt(SMALL, in_channels=channels)
    other.load_state_dict(
        match(other.state_dict(), small.state_dict(), ["in_channels"]).tensors, strict=False
    )
    grey = torch.rand(1, 1, 64, 64)
    wanted = small(grey.expand(1, 3, 64, 64))
    for mine, theirs in zip(other(grey.expand(1, channels, 64, 64)), wanted, strict=True):
        if channels != 4:  # three channels do not divide it: red would count twice
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_larger_kernel_changes_nothing():
    small, other = ConvNeXt(SMALL), ConvNeXt(SMALL, kernel_size=9)
    for block in (b for stage in small.stages for b in stage):
        torch.nn.init.normal_(block.dwconv.weight)
    matched = match(other.state_dict(), small.state_dict(), ["kernel_size"])
    assert matched.adapted == ("kernel_size 7 -> 9",)
    other.load_state_dict(matched.tensors)
    x = torch.rand(1, 3, 64, 96)
    for mine, theirs in zip(other(x), small(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_smaller_kernel_is_the_centre():
    file, own = state(), state(kernel_size=3)
    kernel = match(own, file, ["kernel_size"]).tensors["stages.0.0.dwconv.weight"]
    assert torch.equal(kernel, file["stages.0.0.dwconv.weight"][..., 2:5, 2:5])


def test_nothing_is_adapted_without_a_request():
    with pytest.raises(MisfitError, match=r"ask for adapt=\['kernel_size'\] in init_cfg"):
        match(state(kernel_size=9), state())
    with pytest.raises(MisfitError, match=r"in_channels is 3 in the file and 1 in the backbone"):
        match(state(in_channels=1), state(), ["kernel_size"])


@pytest.mark.parametrize("adapt", [["classes"], "in_channels", ["in_channels", "x"]])
def test_unknown_adaptations_are_refused(adapt):
    with pytest.raises(ValueError, match="must be a list out of in_channels, kernel_size"):
        match(state(), state(), adapt)


def test_layer_scale_alone():
    with pytest.raises(MisfitError, match=r": set layer_scale_init_value=0\.0\. Missing"):
        match(state(), state(layer_scale_init_value=0))


def test_the_share_counts_parameters():
    own = state()
    file = {k: v for k, v in own.items() if not k.startswith("norm")}
    matched = match(own, file)
    norms = 2 * sum(SMALL["widths"])
    total = sum(v.numel() for v in own.values())
    assert matched.share == pytest.approx(1 - norms / total)
    assert matched.total - len(matched.tensors) == len(matched.new) == 8


@pytest.mark.parametrize(
    ("arch", "kwargs", "text"),
    [
        ("tiny", {}, "V1 tiny"),
        ("huge", {"use_grn": True, "layer_scale_init_value": 0}, "V2 huge"),
        (SMALL, {}, f"V1 {KIND}"),
        ("base", {"out_indices": (0, 1)}, "V1 depths=(3, 3), widths=(128, 256)"),
    ],
)
def test_what_kind_it_is(arch, kwargs, text):
    with torch.device("meta"):
        spec = describe(ConvNeXt(arch, in_channels=5, kernel_size=9, **kwargs).state_dict())
    assert str(spec) == text
    assert (spec.in_channels, spec.kernel_size) == (5, 9)
    assert spec.has_layer_scale != spec.use_grn
    assert spec.unsupported == ()


def test_what_kind_incomplete_tensors_are():
    spec = describe({"stages.1.0.gamma": torch.ones(3)})
    assert spec.depths == (0, 1)
    assert spec.widths == (0, 0)
    assert spec.in_channels == spec.kernel_size == 0
    assert describe({}).depths == ()


@pytest.mark.parametrize("use_grn", [True, False])
@pytest.mark.parametrize(("in_channels", "kernel_size", "scale"), [(3, 7, 1e-6), (1, 5, 0.0)])
def test_tensors_tell_what_is_missing_of_them(use_grn, in_channels, kernel_size, scale):
    arch = {"depths": (1, 2, 3, 1), "widths": (8, 16, 24, 32)}
    settings = {"in_channels": in_channels, "kernel_size": kernel_size, "use_grn": use_grn}
    state = ConvNeXt(arch, layer_scale_init_value=scale, **settings).state_dict()
    assert explain_incomplete(state) is None
    del state["stages.1.1.pwconv1.bias"]
    assert "stages.1.1.pwconv1.bias" in explain_incomplete(state)
    for gone, says in (("layers.0.0", "the stem is missing"), ("stages.1", r"arch['depths']=")):
        rest = {k: v for k, v in state.items() if gone not in k}
        assert f"it is not the whole of a ConvNeXt: {says}" in explain_incomplete(rest)
