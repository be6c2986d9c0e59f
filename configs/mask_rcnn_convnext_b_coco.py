# Mask R-CNN T's recipe with Cascade B's drop path; nobody has published a result for it.
_base_ = "./mask_rcnn_convnext_t_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224_ema.pth",
    "timm://convnext_base.fb_in1k",
]
model = dict(
    backbone=dict(arch="base", drop_path_rate=0.7, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[128 * 2**stage for stage in range(4)]),
)
del weights
