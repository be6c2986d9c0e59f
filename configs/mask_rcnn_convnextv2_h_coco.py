# Published: 55.7 box AP, 48.9 mask AP (3x, FCMAE on ImageNet-1K).
# Where 4 images do not fit a GPU: model.backbone.with_cp=True keeps fewer activations.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

model = dict(
    backbone=dict(
        arch="huge",
        drop_path_rate=0.5,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_huge_1k_224_fcmae.pt",
                "timm://convnextv2_huge.fcmae",
            ],
        ),
    ),
    neck=dict(in_channels=[352, 704, 1408, 2816]),
)
