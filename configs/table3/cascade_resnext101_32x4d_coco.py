# Published: 48.1 box AP, 41.6 mask AP (3x, ImageNet-1K).
_base_ = "./cascade_resnet50_coco.py"

model = dict(
    backbone=dict(
        **dict(type="ResNeXt", depth=101, groups=32, base_width=4),
        init_cfg=dict(checkpoint="open-mmlab://resnext101_32x4d"),
    )
)
