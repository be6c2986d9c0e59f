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
# A start by the recipe of ConvNeXt-T or B: of ResNet, and of what has no BatchNorm, and so no
# statistics of all GPUs, any more.
STARTS = {"resnet": 'sync_bn = "torch"\n', "layer_norm": ""}
START = """\
_base_ = "../{detector}_convnext_{variant}_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="{step}",
        regime="{regime}",
        drop_path_rate={drop_path},
        init_cfg={init_cfg},
    ),
    neck=dict(in_channels={channels}),
)
"""


def file_name(detector: str, regime: str, number: int) -> str:
    """The name of the config of a step."""
    return f"{detector}_{regime}_{number:02}_{STEPS[number]}.py"


def config(detector: str, regime: str, number: int) -> str:
    """The text of one config: a start, or what the step changes in the one before it."""
    step, last = STEPS[number], len(STEPS) - 1
    title = f"# Step {number} of {last}; published: {published(step, regime)[1]:.2f} top-1.\n"
    channels, weights = design_of(step, regime).out_channels, WEIGHTS.get((step, regime))
    if step in STARTS:
        variant, drop_path = {"tiny": ("t", 0.4), "base": ("b", 0.7)}[regime]
        text = START.format(
            detector=detector,
            variant=variant,
            step=step,
            regime=regime,
            drop_path=drop_path,
            init_cfg=weights and f'dict(type="Pretrained", checkpoint="{weights}")',
            channels=[*channels],
        )
        return title + text + STARTS[step]
    before = STEPS[number - 1]
    lines = [f'_base_ = "./{file_name(detector, regime, number - 1)}"', ""]
    init_cfg = ", init_cfg=None" if (before, regime) in WEIGHTS else ""
    if weights:
        pretrained = f'dict(_delete_=True, type="Pretrained", checkpoint="{weights}")'
        lines.append(f"init_cfg = {pretrained}")
        init_cfg = ", init_cfg=init_cfg"
    backbone = f'backbone=dict(step="{step}"{init_cfg})'
    if channels == design_of(before, regime).out_channels:
        lines.append(f"model = dict({backbone})")
    else:
        neck = f"neck=dict(in_channels={[*channels]})"
        lines += ["model = dict(", f"    {backbone},", f"    {neck},", ")"]
    return "\n".join([title + lines[0], *lines[1:], *(["del init_cfg"] if weights else []), ""])


def main(folder: Path = FOLDER) -> None:
    """Write all of them."""
    folder.mkdir(exist_ok=True)
    for detector in ("mask_rcnn", "cascade"):
        for regime in WALKS:
            for number in range(len(STEPS)):
                path = folder / file_name(detector, regime, number)
                path.write_text(config(detector, regime, number))


if __name__ == "__main__":
    main()
