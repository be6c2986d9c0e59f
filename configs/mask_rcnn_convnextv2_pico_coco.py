# V2 T's recipe with less drop path; nobody has published a result for it.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

model = dict(
    backbone=dict(
        arch="pico",
        drop_path_rate=0.2,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_pico_1k_224_fcmae.pt",
                "timm://convnextv2_pico.fcmae",
            ],
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
