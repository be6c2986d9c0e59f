"""Every layout, against the library that it comes from: all tensors arrive, features are equal."""

import pytest
import torch
from torch import Tensor, nn

from mmconvnext.errors import WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.variants import VARIANTS
from mmconvnext.weights.layouts import LAYOUTS, convert, find_backbone, flatten
from mmconvnext.weights.load import in_our_layout, load_pretrained
from tests.models.peers import randomise
from tests.peers import mmpretrain_peer
from tests.weights import libraries as lib

ONE = torch.ones(1)
V1 = ("tiny", "small", "base")
BUILDERS = {
    "timm": ("timm", lambda a: lib.timm(f"convnext_{a}")),
    "timm features_only": ("timm", lambda a: lib.timm_features_only(f"convnext_{a}")),
    "timm CLIP": ("timm", lib.timm_clip),
    "torchvision": ("torchvision", lib.torchvision),
    "transformers": ("transformers", lambda a: lib.transformers(a, "ConvNext")),
    "transformers DINOv3": ("transformers DINOv3", lambda a: lib.transformers(a, "DINOv3ConvNext")),
}
HEAD = "ForImageClassification"
CASES = {
    **{
        f"{name} {arch}": (arch, lambda arch=arch, build=build: build(arch), layout)
        for name, (layout, build) in BUILDERS.items()
        for arch in V1
    },
    "timm V2": ("tiny", lambda: lib.timm("convnextv2_tiny"), "timm"),
    "timm V2, 1x1 convolutions": ("atto", lambda: lib.timm("convnextv2_atto"), "timm"),
    "timm V2 features_only": ("tiny", lambda: lib.timm_features_only("convnextv2_tiny"), "timm"),
    "timm, norm before pooling": ("tiny", lambda: lib.timm("convnext_tiny_hnf"), "timm"),
    **{
        f"transformers {kind} {head}": (
            "tiny",
            lambda kind=kind, head=head: lib.transformers("tiny", kind, head),
            "transformers",
        )
        for kind, head in (("ConvNextV2", "Model"), ("ConvNext", HEAD), ("ConvNextV2", HEAD))
    },
}


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def backbone(arch: str, state: dict[str, Tensor], **kwargs) -> ConvNeXt:
    """Without values: what is not loaded would be garbage."""
    v2 = any("grn" in name for name in state)
    with torch.device("meta"):
        model = ConvNeXt(arch, use_grn=v2, layer_scale_init_value=0.0 if v2 else 1.0, **kwargs)
    return model.to_empty(device="cpu").eval()


def without_output_norms(model: ConvNeXt) -> ConvNeXt:
    for index in model.out_indices:
        setattr(model, f"norm{index}", nn.Identity())
    return model


def assert_equal(ours: tuple[Tensor, ...], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).norm() <= 1e-4 * other.norm()
        assert other.std() > 1e-3  # an equality of zeros would prove nothing


def load(model: ConvNeXt, state: dict, tmp_path, **kwargs) -> ConvNeXt:
    torch.save(state, tmp_path / "weights.pth")
    load_pretrained(model, str(tmp_path / "weights.pth"), **kwargs)
    return model


@pytest.mark.parametrize("case", CASES)
def test_features_equal_those_of_the_library(case, tmp_path, lines):
    arch, build, layout = CASES[case]
    with torch.no_grad():
        state, features = lib.randomised(build(), image())
        model = load(backbone(arch, state), state, tmp_path)
        assert_equal(without_output_norms(model)(image()), features)
    (line,) = lines()
    assert f"({layout} layout, V" in line
    own = len(model.state_dict())  # without the eight of the output norms
    assert f"loaded {own} of {own + 8} tensors" in line


@pytest.mark.parametrize("kind", ["ConvNext", "ConvNextV2", "DINOv3ConvNext"])
def test_the_norms_of_a_transformers_backbone_are_ours(kind, tmp_path, lines):
    with torch.no_grad():
        state, features = lib.randomised(lib.transformers_backbone("tiny", kind), image())
        model = load(backbone("tiny", state), state, tmp_path)
        if kind == "DINOv3ConvNext":  # it has no such norms
            model = without_output_norms(model)
        assert_equal(model(image()), features)
    assert ("(100.00% of the parameters)" in lines()[0]) == (kind != "DINOv3ConvNext")


@pytest.mark.parametrize(("arch", "v2"), [("tiny", False), ("tiny", True)])
def test_mmpretrains_detection_backbones(arch, v2, tmp_path, lines):
    """From an environment of its own; with their output norms."""
    depths, widths = VARIANTS[arch]
    peer = mmpretrain_peer.run(
        {"depths": depths, "widths": widths, "use_grn": v2, "layer_scale": 0.0 if v2 else 1.0}
    )
    model = load(backbone(arch, peer["state_dict"]), peer["state_dict"], tmp_path)
    with torch.no_grad():
        assert_equal(model(peer["input"]), peer["outputs"])
        assert_equal(without_output_norms(model)(peer["input"]), peer["stages"])
    assert f"(mmpretrain layout, {'V2' if v2 else 'V1'} {arch})" in lines()[0]
    assert "(100.00% of the parameters)" in lines()[0]


def test_mmpretrains_classifiers(tmp_path, lines):
    depths, widths = VARIANTS["atto"]
    peer = mmpretrain_peer.run({"depths": depths, "widths": widths, "detector": False})
    state = {f"backbone.{k}": v for k, v in peer["state_dict"].items()}
    state["head.fc.weight"] = torch.zeros(10, 320)
    model = load(backbone("atto", state), {"state_dict": state}, tmp_path)
    with torch.no_grad():
        assert_equal(without_output_norms(model)(peer["input"]), peer["stages"])
    assert "not needed: norm.bias, norm.weight; other parts of the file: 1 tensors" in lines()[0]


@pytest.mark.parametrize("arch", ["tiny", "atto"])
def test_sparse_self_supervised_weights(arch, tmp_path, lines):
    with torch.no_grad():
        state, features = lib.randomised(lib.timm(f"convnextv2_{arch}"), image())
        official = load(backbone(arch, state), state, tmp_path).state_dict()
        sparse = lib.sparse_layout({k: v for k, v in official.items() if "norm" not in k[:4]})
        assert sparse["encoder.stages.0.0.dwconv.kernel"].shape == (49, VARIANTS[arch][1][0])
        assert sparse["encoder.downsample_layers.1.1.kernel"].ndim == 3
        model = load(backbone(arch, state), {"model": sparse}, tmp_path)
        assert_equal(without_output_norms(model)(image()), features)
    assert "(official FCMAE, sparse layout, V2" in lines()[-1]
    others = "other parts of the file: 4 tensors (model.decoder.0.dwconv.weight, model.mask"
    assert others in lines()[-1]


def official_state(arch: str, norms: bool) -> dict[str, Tensor]:
    model = ConvNeXt(arch)
    randomise(model)
    return {k: v for k, v in model.state_dict().items() if norms or not k.startswith("norm")}


@pytest.mark.parametrize("arch", V1)
def test_official_dinov3_weights(arch, tmp_path, lines):
    """V1's layout with the final norm twice and no classifier."""
    with torch.no_grad():
        theirs, features = lib.randomised(lib.transformers(arch, "DINOv3ConvNext"), image())
        state, _ = in_our_layout(theirs, "transformers'")
        for leaf in ("weight", "bias"):
            state[f"norms.3.{leaf}"] = state[f"norm.{leaf}"]
        model = load(backbone(arch, state), state, tmp_path)
        assert_equal(without_output_norms(model)(image()), features)
    left_out = "norm.bias, norm.weight, norms.3.bias, norms.3.weight"
    assert f"in the file, not needed: {left_out}" in lines()[0]
    assert "(official layout, V1" in lines()[0]


AVERAGED = {
    "official": lambda s, e: {"model": s, "model_ema": e},
    "timm": lambda s, e: {"state_dict": s, "state_dict_ema": e},
    "DINO": lambda s, e: {"student": s, "teacher": e},
    "DINO, inside": lambda s, e: {
        "model": {f"student.backbone.{k}": v for k, v in s.items()}
        | {f"teacher.backbone.{k}": v for k, v in e.items()}
    },
    # MMEngine's hook swaps them when it saves: `state_dict` is averaged
    "MMEngine": lambda s, e: {
        "state_dict": {f"backbone.{k}": v for k, v in e.items()},
        "ema_state_dict": {f"module.backbone.{k}": v for k, v in s.items()}
        | {"steps": torch.ones(1)},
    },
}


@pytest.mark.parametrize("kind", AVERAGED)
@pytest.mark.parametrize("ema", [False, True])
def test_averaged_weights_by_choice(kind, ema, tmp_path, lines):
    state = official_state("atto", norms=True)
    average = {k: v + 1 for k, v in state.items()}
    file = AVERAGED[kind](state, average)
    model = load(backbone("atto", state), file, tmp_path, ema=ema)
    wanted = average if ema or kind == "MMEngine" else state
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())
    assert "not those under '" in lines()[0]


def test_a_choice_that_is_needed_or_cannot_be_made(tmp_path):
    state = official_state("atto", norms=True)
    other = {k: v + 1 for k, v in state.items()}
    file = {"rgb": {f"backbone.{k}": v for k, v in state.items()}, "depth": other}
    model = backbone("atto", state)
    for options, says in (
        ({}, r"'rgb\.backbone\.', 'depth\.': choose with prefix="),
        ({"prefix": "neck"}, r"no ConvNeXt under prefix='neck'; it has one under"),
        ({"ema": True}, r"no averaged weights for ema=True; it has .* 'rgb\.backbone\.', 'depth"),
    ):
        with pytest.raises(WeightsError, match=says):
            load(model, file, tmp_path, **options)
    for prefix, wanted in (("depth", other), ("backbone.", state)):
        load(model, file, tmp_path, prefix=prefix)
        assert torch.equal(model.norm0.bias, wanted["norm0.bias"])


# What no library's checkpoint shows


def converted(tensors):
    return convert(tensors, find_backbone(tensors))


def test_nested_dicts_are_joined_by_dots_and_only_tensors_are_kept():
    file = {"a": {"b": ONE, 3: {"c": ONE}}, "epoch": 3, "names": ["x"], "d": ONE}
    assert list(flatten(file)) == ["a.b", "a.3.c", "d"]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        *((file, "it has no named tensors, but a") for file in (None, [ONE], ONE, {"a": {"b": 1}})),
        ({"a": {"b": ONE}, "a.b": ONE}, r"two tensors would be called a\.b$"),
        ({1: ONE, "1": ONE}, r"two tensors would be called 1$"),
    ],
)
def test_what_has_no_tensors_by_names(file, says):
    with pytest.raises(ValueError, match=says):
        flatten(file)


def test_no_name_belongs_to_two_layouts():
    names = {
        "official": "stages.0.0.dwconv.weight",
        "official FCMAE, sparse": "stages.0.0.dwconv.kernel",
        "mmpretrain": "stages.0.0.depthwise_conv.weight",
        "timm": "stages.0.blocks.0.conv_dw.weight",
        "torchvision": "features.1.0.block.0.weight",
        "torchvision ResNet": "layer1.0.conv3.weight",
        "transformers": "encoder.stages.0.layers.0.dwconv.weight",
        "transformers DINOv3": "model.stages.0.layers.0.depthwise_conv.weight",
    }
    assert names.keys() == {layout.name for layout in LAYOUTS}
    for name, key in names.items():
        for prefix in ("", "model.", "state_dict.module.backbone."):
            found = find_backbone({prefix + key: ONE})
            assert (found.layout.name, found.prefix) == (name, prefix)


def test_of_mixed_names_the_most_frequent_layout_counts():
    tensors = {f"stages.0.{i}.dwconv.weight": ONE for i in range(3)}
    found = find_backbone(tensors | {"stages.0.3.depthwise_conv.weight": ONE})
    assert found.layout.name == "official"


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 6), (9,), (), (0, 3)])
def test_sparse_kernels_of_other_shapes(shape):
    tensors = {"x.kernel": torch.ones(shape), "stages.1.0.dwconv.kernel": torch.ones(1, 1)}
    with pytest.raises(ValueError, match=r"x\.kernel has the shape .*a sparse kernel has"):
        converted(tensors)


def test_two_tensors_of_one_name_are_an_error():
    tensors = {f"{name}.weight": ONE for name in ("head.norm", "norm_pre")}
    with pytest.raises(ValueError, match=r"two tensors would be called norm\.weight"):
        converted(tensors | {"stages.0.blocks.0.conv_dw.weight": ONE})


def test_nothing_is_copied():
    kernels = {"stages.0.0.dwconv.kernel": torch.rand(49, 8)}
    tensors = kernels | {"stages.0.0.pwconv1.linear.bias": torch.rand(1, 32)}
    ours = converted(tensors)
    assert ours["stages.0.0.pwconv1.bias"].shape == (32,)
    for old, new in zip(tensors.values(), ours.values(), strict=True):
        assert old.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()


@pytest.mark.parametrize("norms", [("norm3",), ("norm0", "norm1", "norm2", "norm3")])
def test_mmpretrains_last_norm_is_final_in_a_classifier(norms):
    tensors = {f"backbone.{n}.weight": ONE for n in norms} | {"head.fc.weight": ONE}
    ours = converted(tensors | {"backbone.stages.0.0.depthwise_conv.weight": ONE})
    assert ("norm.weight" in ours) == ("norm3.weight" not in ours) == (len(norms) == 1)
