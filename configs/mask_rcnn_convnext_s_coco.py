# Mask R-CNN T's recipe with Cascade S's drop path; nobody has published a result for it.
_base_ = "./mask_rcnn_convnext_t_coco.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnext_small_1k_224_ema.pth",
    "timm://convnext_small.fb_in1k",
]
model = dict(backbone=dict(arch="small", drop_path_rate=0.6, init_cfg=dict(checkpoint=weights)))
del weights
