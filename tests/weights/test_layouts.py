"""Every layout, against the library that it comes from: all tensors arrive, features are equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmconvnext.errors import WeightsError
from mmconvnext.models import ConvNeXt
from mmconvnext.variants import VARIANTS
from mmconvnext.weights.convert import in_our_layout
from mmconvnext.weights.load import load_pretrained
from tests.models.peers import randomise
from tests.peers import mmpretrain_peer
from tests.weights import libraries as lib

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
    if kind != "DINOv3ConvNext":
        total = len(model.state_dict())
        assert f"loaded {total} of {total} tensors (100.00% of the parameters)" in lines()[0]


MMPRETRAIN = {"tiny": "tiny", "small": "small", "base": "base", "V2 tiny": "tiny"}


@pytest.mark.parametrize("case", MMPRETRAIN)
def test_mmpretrains_detection_backbones(case, tmp_path, lines):
    """From an environment of its own; with their output norms."""
    depths, widths = VARIANTS[MMPRETRAIN[case]]
    v2 = case.startswith("V2")
    peer = mmpretrain_peer.run(
        {"depths": depths, "widths": widths, "use_grn": v2, "layer_scale": 0.0 if v2 else 1.0}
    )
    state = peer["state_dict"]
    model = load(backbone(MMPRETRAIN[case], state), state, tmp_path)
    with torch.no_grad():
        assert_equal(model(peer["input"]), peer["outputs"])
        assert_equal(without_output_norms(model)(peer["input"]), peer["stages"])
    assert f"(mmpretrain layout, {'V2' if v2 else 'V1'} {MMPRETRAIN[case]})" in lines()[0]
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
        official = {k: v for k, v in official.items() if not k.startswith("norm")}
        sparse = lib.sparse_layout(official)
        assert sparse["encoder.stages.0.0.dwconv.kernel"].shape == (
            49,
            official["stages.0.0.dwconv.bias"].numel(),
        )
        assert sparse["encoder.downsample_layers.1.1.kernel"].ndim == 3
        model = load(backbone(arch, state), {"model": sparse}, tmp_path)
        assert_equal(without_output_norms(model)(image()), features)
    line = lines()[-1]
    assert "(official FCMAE, sparse layout, V2" in line
    assert "other parts of the file: 4 tensors (model.decoder.0.dwconv.weight, model.mask" in line


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


def test_averaged_weights_that_are_not_there(tmp_path):
    state = official_state("atto", norms=True)
    with pytest.raises(
        WeightsError, match=r"no averaged weights for ema=True; it has .* 'model\.'"
    ):
        load(backbone("atto", state), {"model": state}, tmp_path, ema=True)


def test_two_backbones_need_a_choice(tmp_path):
    state = official_state("atto", norms=True)
    other = {k: v + 1 for k, v in state.items()}
    file = {"rgb": {f"backbone.{k}": v for k, v in state.items()}, "depth": other}
    model = backbone("atto", state)
    with pytest.raises(WeightsError, match=r"'rgb\.backbone\.', 'depth\.': choose with prefix="):
        load(model, file, tmp_path)
    load(model, file, tmp_path, prefix="depth")
    assert torch.equal(model.norm0.bias, other["norm0.bias"])
    load(model, file, tmp_path, prefix="backbone.")
    assert torch.equal(model.norm0.bias, state["norm0.bias"])
    with pytest.raises(WeightsError, match=r"no ConvNeXt under prefix='neck'; it has one under"):
        load(model, file, tmp_path, prefix="neck")
