# Published: 54.2 box AP (detrex, 12 epochs); weights of ImageNet-22K, then 1K at 384 pixels.
_base_ = "dino_4scale_convnext-t-22k_coco.py"
model = dict(
    backbone=dict(arch="small",
        init_cfg=dict(
            checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_small_22k_1k_384.pth",
            "timm://convnext_small.fb_in22k_ft_in1k_384"])),
)
