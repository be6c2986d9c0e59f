# Published: 54.0 box AP, 46.9 mask AP (3x, ImageNet-22K).
_base_ = "./cascade_convnext_b_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth",
    "timm://convnext_base.fb_in22k",
]
model = dict(backbone=dict(drop_path_rate=0.6, init_cfg=dict(checkpoint=weights)))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
del weights
