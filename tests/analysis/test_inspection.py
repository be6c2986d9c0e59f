"""What a file is, and exactly which configs it fits."""

import hashlib
import re
from collections import Counter
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmconvnext.analysis import inspection
from mmconvnext.analysis.inspection import Inspection, inspect, inspection_table
from mmconvnext.engine.config import drop_pretrained, load_config
from mmconvnext.errors import CheckpointError, WeightsError
from mmconvnext.models import ConvNeXt
from tests.weights.small_files import FILES, KIND, SMALL, backbone, official

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.py"))
ATTO = "mask_rcnn_convnextv2_atto_coco.py"
SHAPES = "mask_rcnn_convnext_shapes.py"


read_config = cache(load_config)


@pytest.fixture(autouse=True)
def _configs_are_read_once(monkeypatch):
    monkeypatch.setattr(inspection, "load_config", lambda name: deepcopy(read_config(name)))


@pytest.fixture
def write(tmp_path):
    def write(content) -> Path:
        torch.save(content, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


def empty(build):
    """A module's state dict without the time that initialisation takes."""
    with torch.device("meta"):
        module = build()
    return {k: torch.zeros(v.shape, dtype=torch.half) for k, v in module.state_dict().items()}


def timm(name):
    library = pytest.importorskip("timm")
    return empty(lambda: library.create_model(name))


def detector(name=SHAPES, **options):
    cfg = Config.fromfile(FOLDER / name)
    drop_pretrained(cfg)
    cfg.merge_from_dict(options)
    return empty(lambda: MODELS.build(cfg.model))


# What it is

NORM, HEAD = ("norm.bias", "norm.weight"), ("head.bias", "head.weight")
DECODER = {"mask_token": 1, "proj": 1, "decoder": 1, "pred": 1}
# layout, prefix, classifier, other parts
FACTS = {
    "official": ("official", "model.", HEAD + NORM, {"optimizer": 2}),
    "official V2": ("official", "model.", HEAD + NORM, {"optimizer": 2}),
    "FCMAE": ("official FCMAE, sparse", "model.encoder.", (), DECODER),
    "mmpretrain": ("mmpretrain", "state_dict.backbone.", (), {}),
    "timm": ("timm", "", HEAD + NORM, {}),
    "timm V2": ("timm", "", HEAD + NORM, {}),
    "torchvision": ("torchvision", "", HEAD + NORM, {}),
    "transformers": ("transformers", "convnext.", NORM, {"classifier": 2}),
    "transformers V2": ("transformers", "", NORM, {}),
    "transformers DINOv3": ("transformers DINOv3", "", NORM, {}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_layout_is_told(name, write):
    v2, content = FILES[name]
    found = inspect(write(content()), [])
    facts = (found.layout, found.prefix, found.classifier, found.other_parts)
    assert facts == FACTS[name]
    assert found.kind == f"{'V2' if v2 else 'V1'} {KIND}"
    with_norms = name == "mmpretrain"
    own = backbone(v2=v2).state_dict()
    own = {k: v for k, v in own.items() if with_norms or not k.startswith("norm")}
    assert found.tensors == len(own)
    assert found.parameters == sum(v.numel() for v in own.values())
    assert found.types == {"float32": len(own)}
    assert (found.also, found.unsupported, found.configs) == ((), (), ())


def test_the_file_itself_and_its_data_types(write):
    state = {k: v.half() if v.ndim > 1 else v for k, v in official().items()}
    half = sum(v.ndim > 1 and not k.startswith("head") for k, v in state.items())
    path = write(state)
    found = inspect(path, [])
    assert found.file == str(path)
    assert found.mebibytes == round(path.stat().st_size / 1024**2, 1) > 0
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.types == {"float16": half, "float32": found.tensors - half}


def test_averaged_weights_are_named_and_taken_on_request(write):
    path = write({"model": official(), "model_ema": official(seed=2), "epoch": 1})
    found = inspect(path, [])
    assert (found.prefix, found.also) == ("model.", ("model_ema.",))
    averaged = inspect(path, [], ema=True)
    assert (averaged.prefix, averaged.also) == ("model_ema.", ("model.",))
    assert inspect(path, [], prefix="model_ema") == averaged
    assert found.other_parts == {"model_ema": len(official())}


def test_parts_of_a_detector(write):
    state = detector()
    found = inspect(write({"state_dict": state, "optimizer": {"m": torch.ones(1)}}), [])
    inside = Counter(name.partition(".")[0] for name in state)
    assert found.tensors == inside.pop("backbone")
    assert inside.keys() == {"neck", "rpn_head", "roi_head"}
    assert found.other_parts == {**inside, "optimizer": 1}
    assert found.classifier == ()


# Which configs it fits


def fitting(path, configs=CONFIGS, **kwargs):
    return list(inspect(path, configs, **kwargs).configs)


def own_config(tmp_path, **settings):
    """V2 Atto's config with another backbone."""
    path = tmp_path / "own.py"
    text = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    path.write_text(f"_base_ = {str(FOLDER / ATTO)!r}\nmodel = dict(backbone=dict({text}))\n")
    return path


def test_v2_atto_fits_what_has_a_v2_atto(write):
    state = timm("convnextv2_atto")
    assert fitting(write(state)) == ["cascade_convnext_overfit.py", ATTO]
    del state["stages.2.blocks.5.mlp.fc2.bias"]
    assert fitting(write(state)) == []


def test_v1_tiny_fits_all_t_configs_of_v1_and_none_of_v2(write):
    state = {"model": empty(lambda: ConvNeXt("tiny"))}
    assert fitting(write(state)) == [
        "cascade_convnext_t_coco.py",
        "cascade_convnext_t_dinov3_coco.py",
        "mask_rcnn_convnext_t_1x_coco.py",
        "mask_rcnn_convnext_t_coco.py",
    ]


def test_a_detector_fits_where_it_fills_the_whole_model(write):
    state = detector()
    assert fitting(write({"state_dict": state})) == [SHAPES]
    without = {k: v for k, v in state.items() if not k.startswith("roi_head.mask_head")}
    assert fitting(write({"state_dict": without})) == []
    assert fitting(write(detector(**{"model.roi_head.bbox_head.num_classes": 5}))) == []
    # without heads it is a backbone like any other
    part = {k: v for k, v in state.items() if k.startswith("backbone.")}
    assert fitting(write(part)) == ["cascade_convnext_shapes.py", SHAPES]


def test_a_detector_with_more_than_the_model_fits_and_the_log_says_where(write, notes):
    state = detector() | {"ema.w": torch.ones(1)}
    assert fitting(write(state)) == [SHAPES]
    lines = [note for note in notes() if "the file" in note]
    assert lines == [f"{SHAPES}: the file: 1 tensors of it are not in the model (ema.w)"]


def sizes(*widths):
    return {"_delete_": True, "depths": (1, 2, 4, 2), "widths": widths}


@pytest.mark.parametrize(
    ("name", "arch", "unsupported"),
    [
        ("convnext_atto", "atto", None),
        ("convnext_atto_ols", "atto", r"an overlapping stem \(timm's _ols, of two convolutions\)$"),
        (
            "convnext_zepto_rms",
            {**sizes(32, 64, 128, 256), "depths": (2, 2, 4, 2)},
            r"RMS norm \(timm's _rms: norms without a bias\)$",
        ),
        ("test_convnext", sizes(24, 32, 48, 64), ".*eps of 1e-5"),  # all shapes fit
    ],
)
def test_what_this_backbone_cannot_be_fits_none(name, arch, unsupported, write, tmp_path):
    settings = {"arch": arch, "use_grn": False, "layer_scale_init_value": 1.0}
    found = inspect(write(timm(name)), [own_config(tmp_path, **settings)])
    assert len(found.unsupported) == (unsupported is not None)
    assert all(re.match(unsupported, reason) for reason in found.unsupported)
    assert found.configs == (() if unsupported else ("own.py",))


# What is no ConvNeXt


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"layer1.0.conv1.weight": torch.ones(1)}, "no ConvNeXt of a known layout .* a ResNet"),
        ([1, 2], "it has no named tensors, but a list"),
        ({"epoch": 3}, "it has no named tensors, but a dict with epoch"),
        ({"rgb": official(), "depth": official()}, "'rgb.', 'depth.': choose with prefix="),
    ],
)
def test_anything_else_is_refused_with_its_path(content, says, write):
    path = write(content)
    with pytest.raises(WeightsError, match=rf"{path}: .*{says}"):
        inspect(path, CONFIGS)


def test_files_and_choices_that_are_not_there(write, tmp_path):
    path = write(official())
    with pytest.raises(WeightsError, match="no averaged weights"):
        inspect(path, [], ema=True)
    with pytest.raises(WeightsError, match="no ConvNeXt under prefix='neck'"):
        inspect(path, [], prefix="neck")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        inspect(tmp_path / "none.pth", [])


# What is shown

FOUND = Inspection(
    file="some.pth",
    mebibytes=12.5,
    sha256="ab" * 32,
    layout="timm",
    kind="V1 tiny",
    prefix="model.",
    tensors=178,
    parameters=27_818_592,
    types={"float16": 100, "float32": 78},
    classifier=("head.bias", "head.weight", "norm.bias", "norm.weight", "norms.3.bias"),
    other_parts={"optimizer": 4, "model_ema": 182},
    also=("model_ema.", "teacher."),
    unsupported=("RMS norm", "another stem"),
    configs=("a.py", "b.py"),
)


def rows(found):
    lines = inspection_table(found).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]


def test_the_table_shows_each_fact():
    assert rows(FOUND) == [
        ["file", "some.pth (12.5 MiB)"],
        ["sha256", "ab" * 32],
        ["layout", "timm"],
        ["kind", "V1 tiny"],
        ["backbone", "178 tensors, 27,818,592 parameters"],
        ["types", "float16 100, float32 78"],
        ["prefix", "model."],
        ["classifier", "head.bias, head.weight, norm.bias, norm.weight and 1 more"],
        ["other parts, tensors", "optimizer 4, model_ema 182"],
        ["other backbones", "model_ema. (--ema), teacher. (--ema)"],
        ["not for this backbone", "RMS norm"],
        ["not for this backbone", "another stem"],
        ["matching configs", "a.py"],
        ["", "b.py"],
    ]


def test_the_table_says_what_there_is_not(write):
    table = dict(rows(inspect(write(backbone().state_dict()), [FOLDER / ATTO])))
    names = ("prefix", "classifier", "other parts, tensors", "other backbones")
    assert {name: table[name] for name in names} == dict.fromkeys(names, "none")
    assert table["matching configs"] == "none"
    assert not any(name.startswith("not for") for name in table)
    assert table["kind"].endswith(f"widths={SMALL['widths']}")
