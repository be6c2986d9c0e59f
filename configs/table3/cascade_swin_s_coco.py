# Published: 51.9 box AP, 45.0 mask AP (3x, ImageNet-1K).
_base_ = "./cascade_swin_t_coco.py"

weights = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
model = dict(backbone=dict(depths=(2, 2, 18, 2), init_cfg=dict(checkpoint=weights)))
del weights
