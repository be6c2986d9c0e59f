# V2 T's recipe with less drop path; nobody has published a result for it.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

model = dict(
    backbone=dict(
        arch="nano",
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_nano_1k_224_fcmae.pt",
                "timm://convnextv2_nano.fcmae",
            ],
        ),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
