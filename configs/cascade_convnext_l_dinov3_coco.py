# Cascade L's recipe (ImageNet-22K) with DINOv3's weights; nobody has published a result for it.
# Licence and access of the weights: see cascade_convnext_t_dinov3_coco.py.
_base_ = "./cascade_convnext_l_in22k_coco.py"

weights = [
    "timm://convnext_large.dinov3_lvd1689m",
    "hf://facebook/dinov3-convnext-large-pretrain-lvd1689m",
]
model = dict(backbone=dict(init_cfg=dict(checkpoint=weights)))
del weights
