"""The count gives the published numbers, and those of formulas and of another counter."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch import nn

from mmconvnext.analysis import flops
from mmconvnext.analysis.flops import Cost, Part, count_config
from mmconvnext.engine.config import load_config
from mmconvnext.errors import ConfigError
from mmconvnext.variants import VARIANTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# FACTS section 2: parameters in millions, FLOPs in G at 800x1280.
PUBLISHED = {
    "mask_rcnn_convnext_t_coco": (48, 262),
    "cascade_convnext_t_coco": (86, 741),
    "cascade_convnext_s_coco": (108, 827),
    "cascade_convnext_b_coco": (146, 964),
    "cascade_convnext_b_in22k_coco": (146, 964),
    "cascade_convnext_l_in22k_coco": (255, 1354),
    "cascade_convnext_xl_in22k_coco": (407, 1898),
}
# What MMEngine's counter calls convolutions and matrix products.
PRODUCTS = ("conv", "linear", "matmul", "addmm", "bmm", "mm", "einsum")
SMALL = "mask_rcnn_convnext_shapes"


def load(name: str) -> Config:
    return load_config(str(CONFIGS / f"{name}.py"))


def build(name: str) -> nn.Module:
    """A detector on the CPU, with weights."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(load(name).model)


def part_flops(cost: Cost) -> dict[str, int]:
    return {part.name: part.flops for part in cost.parts}


def products(model: nn.Module, image: torch.Tensor) -> int:
    """Multiply-adds of convolutions and matrix products by MMEngine's counter, an own one."""
    analyzer = FlopAnalyzer(model, (image,)).tracer_warnings("none")
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(n for name, n in analyzer.by_operator().items() if name in PRODUCTS)


@pytest.fixture(scope="module")
def small():
    return build(SMALL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name):
    cost = count_config(load(name))
    params, giga = PUBLISHED[name]
    assert round(cost.params / 1e6) == params
    assert cost.flops / 1e9 == pytest.approx(giga, rel=0.005)
    assert sum(part.flops for part in cost.parts) == cost.flops
    assert sum(part.params for part in cost.parts) == cost.params


def test_other_backbones_by_the_same_protocol(monkeypatch):
    """Table 3 of the paper gives 267 G for Swin-T, whose constructor needs a real device."""
    notes = []
    monkeypatch.setattr(flops, "print_log", lambda message, **_: notes.append(message))
    cost = count_config(get_config("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"))
    assert round(cost.params / 1e6) == 48
    assert cost.flops / 1e9 == pytest.approx(267, rel=0.005)
    assert len(notes) == 1
    assert notes[0].startswith("building the model on the CPU instead of meta")


@pytest.mark.parametrize("in_channels", [3, 4])
@pytest.mark.parametrize("arch", ["atto", "tiny", "xlarge"])
def test_the_backbone_by_formula(arch, in_channels):
    height, width = 96, 160
    cfg = load("mask_rcnn_convnext_t_coco")
    depths, widths = VARIANTS[arch]
    cfg.model.backbone.update(arch=arch, in_channels=in_channels)
    cfg.model.neck.in_channels = list(widths)
    expected, channels_before, kernel = 0, in_channels, 4
    for stage, (depth, channels) in enumerate(zip(depths, widths, strict=True)):
        positions = (height // 2 ** (stage + 2)) * (width // 2 ** (stage + 2))
        expected += positions * kernel**2 * channels_before * channels
        expected += depth * positions * (49 * channels + 2 * 4 * channels**2)
        channels_before, kernel = channels, 2
    assert part_flops(count_config(cfg, (height, width)))["backbone"] == expected


def test_the_heads_by_formula():
    parts = part_flops(count_config(load("cascade_convnext_t_coco"), (64, 64)))
    box = 4 * 7**2 * 9 * 256**2 + 7**2 * 256 * 1024 + 1024 * (81 + 80 * 4)
    mask = 4 * 14**2 * 9 * 256**2 + 14**2 * 4 * 256**2 + 28**2 * 256 * 80
    for stage in range(3):
        assert parts[f"roi_head.bbox_head.{stage}"] == 1000 * box
        assert parts[f"roi_head.mask_head.{stage}"] == 100 * mask


@pytest.mark.parametrize("name", [SMALL, "cascade_convnext_shapes"])
def test_agrees_with_mmengine_counting_mmdetections_own_forward(name):
    """All that runs but RoIAlign and NMS; MMDetection's cascade masks every proposal."""
    from mmdet.testing import demo_mm_inputs  # needs mmcv's operators, which mmconvnext brings

    model = build(name).eval()
    num_rois = {"bbox": set(), "mask": set()}
    for kind, seen in num_rois.items():
        heads = getattr(model.roi_head, f"{kind}_head")
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            head.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(len(args[0])))
    samples = demo_mm_inputs(1, [[3, 128, 160]], num_classes=3)["data_samples"]
    model.forward = partial(model._forward, batch_data_samples=samples)
    image = torch.rand(1, 3, 128, 160)
    with torch.no_grad():
        model(image)  # torchvision's kernels cannot be imported under torch's tracer
        expected = products(model, image)
    (num_proposals,), (num_mask_rois,) = num_rois["bbox"], num_rois["mask"]
    cost = flops.count_flops(model, (128, 160), num_proposals, num_mask_rois)
    assert cost.flops == expected


def test_single_stage_detectors_are_counted_as_they_run():
    cfg = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    cost = count_config(cfg, (64, 96))
    assert [part.name for part in cost.parts] == ["backbone", "neck", "bbox_head"]
    assert "single-stage" in cost.protocol
    assert "proposals" not in cost.protocol
    model = flops.build_detector(cfg).to_empty(device="cpu").eval()
    model.forward = partial(model._forward, batch_data_samples=None)
    assert cost.flops == products(model, torch.rand(1, 3, 64, 96))


def test_detectors_without_masks():
    cfg = load(SMALL)
    masks = count_config(cfg, (64, 64))
    del cfg.model.roi_head["mask_head"], cfg.model.roi_head["mask_roi_extractor"]
    cost = count_config(cfg, (64, 64))
    expected = part_flops(masks)
    assert masks.flops - cost.flops == expected.pop("roi_head.mask_head") > 0
    assert part_flops(cost) == expected
    assert "mask head" in masks.protocol
    assert "mask head" not in cost.protocol


def test_a_head_before_the_box_head_sees_every_proposal():
    config = get_config("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py")
    model = flops.build_detector(config)
    once, more = (part_flops(flops.count_flops(model, (64, 64), n)) for n in (10, 20))
    assert more["roi_head.shared_head"] == 2 * once["roi_head.shared_head"] > 0
    assert more["roi_head.bbox_head"] == 2 * once["roi_head.bbox_head"]


def test_counting_leaves_the_model_as_it_is(small):
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    requires_grad = [param.requires_grad for param in small.parameters()]
    # at 32x32 the last map has one position, which BatchNorm refuses in training
    cost = flops.count_flops(small, (32, 32))
    after = small.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in small.modules())
    assert [param.requires_grad for param in small.parameters()] == requires_grad
    assert not any(module._forward_hooks for module in small.modules())
    cfg = load(SMALL)
    assert cost == count_config(cfg, (32, 32))
    assert cost == flops.count_flops(deepcopy(small).half(), (32, 32))
    assert cfg.to_dict() == load(SMALL).to_dict()


SHAPES = [(0, 64), (64, -1), (64,), (64, 64, 3), (64.0, 64)]
NUMBERS = ["num_proposals", "num_mask_rois", "in_channels"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        *(
            ({"shape": shape}, "must be two positive integers: height and width")
            for shape in SHAPES
        ),
        *(({name: 0}, f"{name}=0 must be a positive integer") for name in NUMBERS),
        ({"shape": (8, 16)}, r"cannot be run on an image of 8x16 .*too small"),
    ],
)
def test_arguments_that_cannot_be(small, argument, says):
    with pytest.raises(flops.FlopsError, match=says):
        flops.count_flops(small, **({"shape": (64, 64)} | argument))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("detr/detr_r50_8xb2-150e_coco", "DETR has no place in the paper's protocol: it covers"),
        ("deformable_detr/deformable-detr_r50_16xb2-50e_coco", "DeformableDETR has no place"),
        ("double_heads/dh-faster-rcnn_r50_fpn_1x_coco", "FasterRCNN with DoubleHeadRoIHead"),
        ("htc/htc_r50_fpn_1x_coco", "with HybridTaskCascadeRoIHead has no place"),
        ("ms_rcnn/ms-rcnn_r50_fpn_1x_coco", "leave out: roi_head.mask_iou_head.convs.0"),
    ],
)
def test_what_the_protocol_does_not_cover_is_counted_in_a_prediction(config, message):
    cfg = get_config(f"mmdet::{config}.py")
    with pytest.raises(flops.FlopsError, match=message):
        flops.count_flops(flops.build_detector(cfg), (64, 64))
    cost = count_config(cfg, (64, 64))
    assert "one real prediction on an image of 64x64" in cost.protocol
    assert "depends on how many there are. Not the paper's protocol: " in cost.protocol
    backbone = part_flops(cost)["backbone"]
    # ResNet-50 at 224 x 224 by FACTS section 9, without the classifier
    assert backbone == pytest.approx((4.0892e9 - 2048e3) * (64 / 224) ** 2, rel=1e-3)
    assert cost.flops == sum(part.flops for part in cost.parts)


def test_deformable_convolution_is_named_as_not_counted():
    cfg = get_config("mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py")
    try:
        text = count_config(cfg, (64, 64)).protocol
    except flops.FlopsError as error:  # compiled mmcv has none for the meta device
        text = str(error)
    assert "layer2.0.conv2" in text or "need a real device" in text


def test_a_prediction_that_fails_says_why(monkeypatch):
    def predict(*args, **kwargs):
        raise ValueError("no queries")

    monkeypatch.setattr("mmdet.models.detectors.base_detr.DetectionTransformer.predict", predict)
    with pytest.raises(flops.FlopsError, match=r"DETR has no place.*ValueError: no queries"):
        count_config(get_config("mmdet::detr/detr_r50_8xb2-150e_coco.py"), (64, 64))


def test_models_that_cannot_be_built():
    with pytest.raises(ConfigError, match="has no model"):
        count_config(Config({}))
    cfg = load(SMALL)
    cfg.model.backbone.arch = "gigantic"
    with pytest.raises(ConfigError, match=r"shapes\.py cannot be built: .*arch='gigantic'"):
        count_config(cfg)


# what is shown and written

PARTS = (Part("backbone", 1_260_000, 2_340_000_000), Part("head", 0, 1_000_000_000))
COST = Cost((64, 64), 1_260_000, 3_340_000_000, PARTS, "what was counted")


def test_the_table_has_every_part_their_sum_and_the_protocol():
    *table, protocol = COST.table().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table if line[0] == "|"]
    assert cells == [
        ["part", "params, M", "FLOPs, G"],
        ["backbone", "1.3", "2.3"],
        ["head", "0.0", "1.0"],
        ["sum", "1.3", "3.3"],
    ]
    assert protocol == "FLOPs: what was counted"


def test_the_file_has_numbers_unit_and_origin():
    cfg = load(SMALL)
    info = COST.info(cfg)
    assert (info["flops"], info["params"]) == (3_340_000_000, 1_260_000)
    assert info["shape"] == (64, 64)
    assert [part["name"] for part in info["parts"]] == ["backbone", "head"]
    assert "multiply-adds" in info["unit"]
    assert info["run"]["config"] == cfg.filename
