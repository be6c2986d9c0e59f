"""Weights as classifiers: the logits of timm and transformers, and where settings come from."""

import pytest
import torch

from mmconvnext.analysis import classification
from mmconvnext.analysis.classification import Classifier, find_entry, find_evaluation
from mmconvnext.errors import UserError, WeightsError
from mmconvnext.weights.zoo import read_zoo
from tests.models.peers import randomise
from tests.weights.libraries import torchvision, transformers

SMALL = {"depths": (1, 2, 3, 1), "dims": (8, 16, 24, 32)}
V2 = {"use_grn": True, "ls_init_value": None}


@torch.no_grad()
def assert_same_logits(peer: torch.nn.Module, place: str = "") -> None:
    randomise(peer)
    ours = Classifier("a file", {place + k: v for k, v in peer.state_dict().items()}).eval()
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    theirs = peer.eval()(x)
    theirs = getattr(theirs, "logits", theirs)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours(x), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 1000},
        {"num_classes": 1000, **V2},
        {"num_classes": 21841},
        {"num_classes": 11821, "head_hidden_size": 40},
        {"num_classes": 1000, "head_norm_first": True},
    ],
    ids=["V1", "V2", "22K", "mlp", "norm before pooling"],
)
def test_logits_are_those_of_timm(options):
    from timm.models.convnext import ConvNeXt

    assert_same_logits(ConvNeXt(**SMALL, **options), place="model.")


def test_logits_are_those_of_other_libraries():
    arch = {"depths": SMALL["depths"], "widths": SMALL["dims"]}
    assert_same_logits(torchvision(arch).module)


@pytest.mark.parametrize("kind", ["ConvNext", "ConvNextV2"])
def test_logits_are_those_of_transformers(kind):
    arch = {"depths": SMALL["depths"], "widths": SMALL["dims"]}
    assert_same_logits(transformers(arch, kind, "ForImageClassification").module)


def state(**options) -> dict:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(**SMALL, **options).state_dict()


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "a file: no ConvNeXt .* looks like a ResNet"),
        (state(num_classes=0), r"V1 .* has no classifier: head\.weight is missing.*fine-tuned"),
        (
            {**state(), "head.fc.weight": torch.zeros(1000, 31)},
            "head.weight is 1000x31 in the file, and must be 1000x32",
        ),
        ({**state(), "head.norm.bias": torch.zeros(8)}, "norm.bias is 8 in the file"),
    ],
)
def test_what_is_no_classifier(checkpoint, says):
    with pytest.raises(WeightsError, match=says):
        Classifier("a file", checkpoint)


def test_heads_of_larger_sets_are_mapped():
    from timm.data import ImageNetInfo

    wnids, columns = classification.class_columns(21841, "x")
    labels = ImageNetInfo("imagenet-22k").label_names()
    assert [labels[c] for c in columns if c >= 0] == [w for w in wnids if w != "n04399382"]
    assert columns[wnids.index("n04399382")] == -1  # the teddy bear is none of the 21,841
    assert classification.class_columns(1000, "x")[1] == list(range(1000))
    with pytest.raises(WeightsError, match=r"x has a head of 640 outputs.*11821"):
        classification.class_columns(640, "x")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("timm://convnext_tiny.fb_in1k", "convnext_tiny_1k_224_ema"),
        ("a/convnext_tiny_1k_224_ema.pth", "convnext_tiny_1k_224_ema"),
        ("b/convnext_atto.d2_in1k.safetensors", "convnext_atto.d2_in1k"),
        ("b/convnext_atto.d2_in1k", "convnext_atto.d2_in1k"),
        ("b/convnext_tiny.fb_in1k.safetensors", "convnext_tiny_1k_224_ema"),
        ("mine.pth", None),
    ],
)
def test_the_zoo_is_asked_by_source_and_by_file(source, name):
    assert getattr(find_entry(source), "name", None) == name


@pytest.mark.parametrize(
    ("source", "says"),
    [
        # published by the official code at the size of its name, by timm at its size for tests
        ("timm://convnext_tiny.fb_in1k", "224 pixels, crop 0.875 (center), bicubic: timm's for "),
        ("convnext_tiny_22k_1k_384.pth", "384 pixels, crop 1 (squash), bicubic: timm's for "),
        ("timm://convnext_atto.d2_in1k", "288 pixels, crop 0.95 (center), bicubic: timm's for "),
        ("convnext_base_1k_384.pth", "384 pixels, crop 1 (squash), bicubic: the official code's "),
        ("mine.pth", "224 pixels, crop 0.875 (center), bicubic: ImageNet's defaults, since "),
        ("torchvision://convnext_tiny.IMAGENET1K_V1", "ImageClassification( crop_size=[224] "),
    ],
)
def test_how_pictures_are_evaluated(source, says):
    evaluation = find_evaluation(source, find_entry(source))
    assert evaluation.text.startswith(says)


def test_every_published_figure_of_the_zoo_has_a_known_evaluation():
    entries = [entry for entry in read_zoo() if entry.accuracy]
    texts = [find_evaluation(entry.sources[0], entry).text for entry in entries]
    assert entries
    assert not [text for text in texts if "default" in text]


def test_another_size():
    assert find_evaluation("mine.pth", None, 96).text.startswith("96 pixels, crop 0.875")
    with pytest.raises(UserError, match=r"--size 16 is less than 32"):
        find_evaluation("mine.pth", None, 16)
