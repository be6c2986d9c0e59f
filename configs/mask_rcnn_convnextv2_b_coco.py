# Published: 52.9 box AP, 46.6 mask AP (3x, FCMAE on ImageNet-1K).
# MMDetection's project of this model reached 52.9 and 46.4 with this drop path and decay rate.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.4,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_base_1k_224_fcmae.pt",
                "timm://convnextv2_base.fcmae",
            ],
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
