"""Strict matching, what may be adapted, and what tensors say of their architecture."""

import pytest
import torch

from mmconvnext.errors import WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.weights.matching import describe, explain_incomplete, match
from tests.weights.small_files import KIND, SMALL, backbone

STEM = "downsample_layers.0.0.weight"


def state(**kwargs) -> dict[str, torch.Tensor]:
    return backbone(**kwargs).state_dict()


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_channels_are_adapted_as_timm_does(channels):
    manipulate = pytest.importorskip("timm.models._manipulate")
    file = state()
    tensors, _, notes = match(state(in_channels=channels), file, ["in_channels"])
    theirs = manipulate.adapt_input_conv(channels, file[STEM].clone())
    torch.testing.assert_close(tensors[STEM], theirs)
    assert notes == f"; adapted: in_channels 3 -> {channels}"
    assert file[STEM].shape[1] == 3


@pytest.mark.parametrize(
    ("adapt", "value"), [("in_channels", 1), ("in_channels", 6), ("kernel_size", 9)]
)
def test_what_is_adapted_computes_the_same_maps(adapt, value):
    """Of a grey image, in any number of channels; with a larger kernel."""
    small, other = backbone(), backbone(1, **{adapt: value})
    tensors, _, notes = match(other.state_dict(), small.state_dict(), [adapt])
    other.load_state_dict(tensors)
    assert f"adapted: {adapt} " in notes
    grey, channels = torch.rand(1, 1, 64, 96), value if adapt == "in_channels" else 3
    maps = other(grey.expand(-1, channels, -1, -1)), small(grey.expand(-1, 3, -1, -1))
    for mine, theirs in zip(*maps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_smaller_kernel_is_the_centre():
    file, key = state(), "stages.0.0.dwconv.weight"
    tensors, _, _ = match(state(kernel_size=3), file, ["kernel_size"])
    assert torch.equal(tensors[key], file[key][..., 2:5, 2:5])


@pytest.mark.parametrize(
    ("own", "file", "adapt", "says"),
    [
        ({"kernel_size": 9}, {}, [], r"ask for adapt=\['kernel_size'\] in init_cfg"),
        (
            {"in_channels": 1},
            {},
            ["kernel_size"],
            "in_channels is 3 in the file and 1 in the backb",
        ),
        ({}, {"layer_scale_init_value": 0}, [], r": set layer_scale_init_value=0\.0\. Missing"),
        ({}, {}, ["classes"], "must be a list out of in_channels, kernel_size"),
        ({}, {}, "in_channels", "must be a list out of in_channels, kernel_size"),
        ({}, {}, ["in_channels", "x"], "must be a list out of in_channels, kernel_size"),
    ],
)
def test_nothing_else_is_adapted(own, file, adapt, says):
    with pytest.raises(WeightsError, match=says):
        match(state(**own), state(**file), adapt)


def test_the_share_counts_parameters():
    own = state()
    tensors, share, notes = match(own, {k: v for k, v in own.items() if not k.startswith("norm")})
    part = 1 - 2 * sum(SMALL["widths"]) / sum(v.numel() for v in own.values())
    assert share == f"{len(own) - 8} of {len(own)} tensors ({part:.2%} of the parameters)"
    assert len(tensors) == len(own) - 8
    assert notes.endswith("norm1.bias, norm1.weight and 4 more")


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
    assert (spec.depths, spec.widths, spec.in_channels, spec.kernel_size) == ((0, 1), (0, 0), 0, 0)
    assert describe({}).depths == ()


@pytest.mark.parametrize("use_grn", [True, False])
@pytest.mark.parametrize(("in_channels", "kernel_size", "scale"), [(3, 7, 1e-6), (1, 5, 0.0)])
def test_tensors_tell_what_is_missing_of_them(use_grn, in_channels, kernel_size, scale):
    arch = {"depths": (1, 2, 3, 1), "widths": (8, 16, 24, 32)}
    settings = {"in_channels": in_channels, "kernel_size": kernel_size, "use_grn": use_grn}
    tensors = state(arch=arch, layer_scale_init_value=scale, **settings)
    assert explain_incomplete(tensors) is None
    for gone, says in (
        ("stages.1.1.pwconv1.bias", "Missing: stages.1.1.pwconv1.bias"),
        ("layers.0.0", "it is not the whole of a ConvNeXt: the stem is missing"),
        ("stages.1", "it is not the whole of a ConvNeXt: arch['depths']="),
    ):
        rest = {k: v for k, v in tensors.items() if gone not in k}
        assert says in explain_incomplete(rest)
