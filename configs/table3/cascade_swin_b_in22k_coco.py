# Published: 53.0 box AP, 45.8 mask AP (3x, ImageNet-22K).
_base_ = "./cascade_swin_b_coco.py"

weights = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"
model = dict(backbone=dict(init_cfg=dict(checkpoint=weights)))
del weights
