# Published: 51.9 box AP, 45.0 mask AP (3x, ImageNet-1K).
_base_ = "./cascade_convnext_t_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224_ema.pth",
    "timm://convnext_small.fb_in1k",
]
model = dict(backbone=dict(arch="small", drop_path_rate=0.6, init_cfg=dict(checkpoint=weights)))
del weights
