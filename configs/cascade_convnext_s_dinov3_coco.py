# Cascade S's recipe with DINOv3's weights; nobody has published a result for it.
# Licence and access of the weights: see cascade_convnext_t_dinov3_coco.py.
_base_ = "./cascade_convnext_s_coco.py"

weights = [
    "timm://convnext_small.dinov3_lvd1689m",
    "hf://facebook/dinov3-convnext-small-pretrain-lvd1689m",
]
model = dict(backbone=dict(init_cfg=dict(checkpoint=weights)))
del weights
