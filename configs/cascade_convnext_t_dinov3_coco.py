# Cascade T's recipe with DINOv3's weights; nobody has published a result for it.
# The weights have a licence of their own (DINOv3 License), and on the hub Facebook's own copy is
# for accounts that have been granted access.
_base_ = "./cascade_convnext_t_coco.py"

weights = [
    "timm://convnext_tiny.dinov3_lvd1689m",
    "hf://facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
]
model = dict(backbone=dict(init_cfg=dict(checkpoint=weights)))
del weights
