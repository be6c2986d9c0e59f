"""Writes configs/roadmap: two detectors for each step from ResNet to ConvNeXt."""

from pathlib import Path

import checkout  # noqa: F401 (first: it puts this checkout's package before an installed one)

from mmconvnext.analysis.walk import published
from mmconvnext.models.roadmap import STEPS, WALKS, design_of

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "roadmap"
# Both ends have published weights.
WEIGHTS = {
    ("resnet", "tiny"): "torchvision://resnet50",
    ("separate_downsampling", "tiny"): "timm://convnext_tiny.fb_in1k",
    ("separate_downsampling", "base"): "timm://convnext_base.fb_in1k",
}
# BatchNorm's statistics are those of all GPUs.
SYNC_BN = 'sync_bn = "torch"\n'


def config(detector: str, regime: str, step: str) -> str:
    """The text of one config."""
    variant, drop_path = {"tiny": ("t", 0.4), "base": ("b", 0.7)}[regime]
    number, design = STEPS.index(step), design_of(step, regime)
    weights = "init_cfg=None,  # no weights are published"
    if source := WEIGHTS.get((step, regime)):
        weights = f'init_cfg=dict(type="Pretrained", checkpoint="{source}"),'
    lines = [
        f"# Step {number} of {len(STEPS) - 1}; published: {published(step, regime)[1]:.2f} top-1.",
        f'_base_ = "../{detector}_convnext_{variant}_coco.py"',
        "",
        "model = dict(",
        "    backbone=dict(",
        "        _delete_=True,",
        '        type="ModernizedResNet",',
        f'        step="{step}",',
        f'        regime="{regime}",',
        f"        drop_path_rate={drop_path},",
        f"        {weights}",
        "    ),",
        f"    neck=dict(in_channels={list(design.out_channels)}),",
        ")",
    ]
    return "\n".join(lines) + "\n" + SYNC_BN * (not design.layer_norm)


def main(folder: Path = FOLDER) -> None:
    """Write all of them."""
    folder.mkdir(exist_ok=True)
    for detector in ("mask_rcnn", "cascade"):
        for regime in WALKS:
            for number, step in enumerate(STEPS):
                path = folder / f"{detector}_{regime}_{number:02}_{step}.py"
                path.write_text(config(detector, regime, step))


if __name__ == "__main__":
    main()
