# Published: 46.3 box AP, 40.1 mask AP (3x, ImageNet-1K); the recipe is that of Swin.
_base_ = "../cascade_convnext_t_coco.py"

model = dict(
    backbone=dict(
        **dict(_delete_=True, type="ResNet", depth=50, frozen_stages=1, norm_eval=True),
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
    neck=dict(in_channels=[256 * 2**stage for stage in range(4)]),
)
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0),
    optimizer=dict(lr=1e-4),
)
