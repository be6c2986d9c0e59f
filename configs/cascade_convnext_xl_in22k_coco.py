# Published: 55.2 box AP, 47.7 mask AP (3x, ImageNet-22K, float32).
_base_ = "./cascade_convnext_l_in22k_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth",
    "timm://convnext_xlarge.fb_in22k",
]
model = dict(
    backbone=dict(arch="xlarge", drop_path_rate=0.8, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[256 * 2**stage for stage in range(4)]),
)
del weights
