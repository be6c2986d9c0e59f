# Published: 52.7 box AP, 45.6 mask AP (3x, ImageNet-1K).
_base_ = "./cascade_convnext_t_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224_ema.pth",
    "timm://convnext_base.fb_in1k",
]
model = dict(
    backbone=dict(arch="base", drop_path_rate=0.7, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[128 * 2**stage for stage in range(4)]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
del weights
