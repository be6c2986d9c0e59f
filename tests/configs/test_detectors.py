"""ConvNeXt in other detectors: each config builds, trains, predicts and reloads, alone or in two.

``pytest tests/configs/test_detectors.py -s`` ends with a table of them. In two processes it is one
detector of each kind, and with ``MMCONVNEXT_TWO_PROCESSES=all`` each one.
"""

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from mmconvnext.analysis.flops import count_config
from mmconvnext.engine.advice import explain_misfits
from mmconvnext.engine.config import load_config
from mmconvnext.errors import ConfigError
from tests.configs.detector_steps import (
    STAGES,
    batches,
    build,
    go_through,
    go_through_together,
    narrow_config,
    without_gradient,
)
from tests.processes import in_two_processes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OTHER_FOLDERS = ("_base_", "distill", "roadmap", "table3")
DETECTORS = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.glob("*/*.py")
    if path.parent.name not in OTHER_FOLDERS
)
# Parameters that need not have a gradient, of which detectors, and why.
NO_GRADIENT = {
    r"bbox_head\.scales(_refine)?\.4\.scale": (
        ("atss", "centernet", "condinst", "fcos", "gfl", "vfnet"),
        "scales the boxes of objects larger than these pictures",
    ),
}
NO_GRADIENT["decoder.layers.0.self_attn.(kcontent|qcontent|v)_proj.weight"] = (
    ("conditional_detr", "dab_detr"),
    "its content queries start at zero, and the first layer's input is nothing else",
)
# MMDetection's configs without one of ours, for `--backbone`; docs/training.md has the table.
OTHERS = [
    "foveabox/fovea_r50_fpn_4xb4-1x_coco",
    "reppoints/reppoints-moment_r50_fpn_1x_coco",
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco",
    "cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco",
    "fsaf/fsaf_r50_fpn_1x_coco",
    "yolo/yolov3_d53_8xb8-ms-608-273e_coco",
    "detr/detr_r50_8xb2-150e_coco",
    "conditional_detr/conditional-detr_r50_8xb2-50e_coco",
    "dab_detr/dab-detr_r50_8xb2-50e_coco",
    "solov2/solov2_r50_fpn_1x_coco",
    "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance",
    "queryinst/queryinst_r50_fpn_1x_coco",
    "grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco",
    "double_heads/dh-faster-rcnn_r50_fpn_1x_coco",
    "free_anchor/freeanchor_r50_fpn_1x_coco",
]
REFUSED = {
    "ssd/ssd300_coco": "returns levels of its own",
    "tridentnet/tridentnet_r50-caffe_1x_coco": "in_channels of the backbone's levels",
    "nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco": "NASFCOS_FPN needs the level",
}
# FACTS section 7, and for DINO detrex's configs.
PUBLISHED = {"dino/dino_4scale_convnext-t-22k_coco": ("tiny", 52.4)}
PUBLISHED["dino/dino_4scale_convnext-s-22k_coco"] = ("small", 54.2)
PUBLISHED["dino/dino_4scale_convnext-b-22k_coco"] = ("base", 55.1)
PUBLISHED["dino/dino_4scale_convnext-l-22k_coco"] = ("large", 55.5)
PUBLISHED["rtmdet/rtmdet_convnext-b_coco"] = ("base", 53.1)


# The others differ in backbones alone, which are all as narrow here.
UNLIKE = [n for n in DETECTORS if n not in PUBLISHED or n.startswith("rtmdet")]
# With losses divided by counts of all processes, in stages, by queries, by points of masks.
KINDS = ("atss/", "cascade_rcnn/", "dino/", "mask2former/", "rtmdet/rtmdet_ins")
TOGETHER = [n for n in UNLIKE if n.startswith(KINDS) and "5scale" not in n]
if os.environ.get("MMCONVNEXT_TWO_PROCESSES") == "all":
    TOGETHER = DETECTORS


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Without MMEngine's line for each parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def table():
    """What each detector came through, printed at the end."""
    rows = {}
    yield rows
    print(f"\n| config | {' | '.join(STAGES)} | two processes |")
    print(f"| --- |{' --- |' * (len(STAGES) + 1)}")
    for name, done in sorted(rows.items()):
        cells = ["yes" if stage in done else "no" for stage in (*STAGES, "two")]
        print(f"| {name} | {' | '.join(cells)} |")


@pytest.fixture(scope="module")
def two_processes(coco_tiny):
    """What came of detectors in each of two processes."""
    folder = Path(tempfile.mkdtemp())
    in_two_processes(go_through_together, folder, TOGETHER, coco_tiny)
    return [json.loads((folder / f"came{rank}.json").read_text()) for rank in range(2)]


def unexplained(name: str, silent: list[str]) -> list[str]:
    """The parameters without a gradient that NO_GRADIENT does not explain."""
    allowed = [key for key, (of, _) in NO_GRADIENT.items() if name.startswith(of)]
    return [n for n in silent if not any(re.fullmatch(key, n) for key in allowed)]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_config_is_a_short_delta(name):
    lines = (CONFIGS / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 15
    (base,) = (line for line in lines if line.startswith("_base_ = "))
    assert base.startswith('_base_ = "mmdet::') or "_convnext-t" in base


@pytest.mark.parametrize("name", UNLIKE)
def test_builds_trains_predicts_and_reloads(name, coco_tiny, tmp_path, table):
    done = table.setdefault(name, [])
    for stage, silent in go_through(f"mmconvnext::{name}", coco_tiny, tmp_path):
        assert unexplained(name, silent) == []
        done.append(stage)


@pytest.mark.parametrize("name", TOGETHER)
def test_the_same_in_two_processes(name, two_processes, table):
    assert [came[name] for came in two_processes] == [[*STAGES]] * 2
    table.setdefault(name, []).append("two")


@pytest.mark.parametrize("name", [n for n in DETECTORS if n.startswith("d") and n not in PUBLISHED])
def test_its_cost_can_be_counted(name):
    cost = count_config(narrow_config(f"mmconvnext::{name}"), (128, 160))
    assert cost.flops == sum(part.flops for part in cost.parts) > 1e6
    assert min(part.flops for part in cost.parts) >= 0


@pytest.mark.parametrize("name", OTHERS)
def test_others_with_the_backbone_swapped(name, coco_tiny):
    cfg = narrow_config(f"mmdet::{name}.py", "convnext-t")
    model = build(cfg)
    assert explain_misfits(model, cfg) == {}
    assert unexplained(name, without_gradient(model, cfg, batches(cfg, coco_tiny))) == []


@pytest.mark.parametrize("name", REFUSED)
def test_others_that_are_refused(name):
    with pytest.raises(ConfigError, match=REFUSED[name]):
        narrow_config(f"mmdet::{name}.py", "convnext-t")


def test_the_docs_name_all_of_them():
    text = (CONFIGS.parent / "docs" / "training.md").read_text()
    assert [name for name in (*OTHERS, *REFUSED) if f"mmdet::{name}.py" not in text] == []


def test_the_table_of_configs_has_each_of_them():
    text = (CONFIGS / "README.md").read_text()
    named = {path for pattern in re.findall(r"^\| `([^`]+)`", text, re.M) for path in find(pattern)}
    assert {p for p in CONFIGS.rglob("*.py") if CONFIGS / "_base_" not in p.parents} == named


def find(pattern: str) -> list[Path]:
    """The files of a name with `{a,b}` and `*`; that there are any is asserted."""
    if choices := re.search(r"{([^}]+)}", pattern):
        before, after = pattern[: choices.start()], pattern[choices.end() :]
        return [p for each in choices[1].split(",") for p in find(before + each + after)]
    found = [path for path in CONFIGS.glob(pattern) if path.is_file()]
    assert found or pattern == "_base_/", pattern
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    arch, box_ap = PUBLISHED[name]
    text = (CONFIGS / f"{name}.py").read_text()
    assert text.startswith(f"# Published: {box_ap} box AP")
    cfg = load_config(f"mmconvnext::{name}")
    backbone, settings = cfg.model.backbone, cfg.optim_wrapper
    assert backbone.arch == arch
    assert backbone.out_indices == (1, 2, 3)
    assert backbone.init_cfg.checkpoint == [
        f"https://dl.fbaipublicfiles.com/convnext/convnext_{arch}_22k_1k_384.pth",
        f"timm://convnext_{arch}.fb_in22k_ft_in1k_384",
    ]
    batch = cfg.auto_scale_lr.base_batch_size
    optimizer, rules = settings.optimizer, settings.paramwise_cfg
    if name.startswith("dino"):
        assert (cfg.max_epochs, batch, backbone.get("drop_path_rate", 0)) == (12, 16, 0)
        assert settings.clip_grad.max_norm == 0.1
        assert (optimizer.lr, optimizer.weight_decay) == (1e-4, 1e-4)
        assert rules == {"custom_keys": {"backbone": {"lr_mult": 0.1}}, "norm_decay_mult": 0}
        assert (cfg.model.positional_encoding.temperature, cfg.model.dn_cfg.label_noise_scale) == (
            10000,
            0.2,
        )
    else:
        assert (cfg.max_epochs, batch, backbone.drop_path_rate) == (100, 4 * 32, 0.7)
        assert (optimizer.lr, rules.decay_rate, rules.num_layers) == (1e-3, 0.8, 12)
        assert settings.constructor == "LayerDecayOptimWrapperConstructor"
        assert cfg.model.neck.norm_cfg.type == cfg.model.bbox_head.norm_cfg.type == "GN"
        assert "ExpMomentumEMA" in [hook.get("ema_type") for hook in cfg.custom_hooks]
