# Published: 54.8 box AP, 47.6 mask AP (3x, ImageNet-22K, float32).
_base_ = "./cascade_convnext_t_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth",
    "timm://convnext_large.fb_in22k",
]
model = dict(
    backbone=dict(arch="large", drop_path_rate=0.7, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[192 * 2**stage for stage in range(4)]),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(lr=1e-4))
del weights
