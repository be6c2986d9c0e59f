# Published: 54.4 box AP, 47.7 mask AP (3x, FCMAE on ImageNet-1K).
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.5,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_large_1k_224_fcmae.pt",
                "timm://convnextv2_large.fcmae",
            ],
        ),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
