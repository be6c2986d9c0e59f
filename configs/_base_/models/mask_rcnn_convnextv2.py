# V2-T: GRN in place of layer scale, images of one size in training, soft-NMS in testing.
_base_ = "./mask_rcnn_convnext.py"

weights = [
    "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt",
    "timm://convnextv2_tiny.fcmae",
]
v2 = dict(layer_scale_init_value=0.0, use_grn=True)
model = dict(
    # A batch costs the same whatever is in it; images are tested at their own size.
    data_preprocessor=dict(
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)]
    ),
    backbone=dict(drop_path_rate=0.3, init_cfg=dict(checkpoint=weights), **v2),
    # Published is the name soft-NMS; method and numbers are mmcv's defaults.
    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms", method="linear", sigma=0.5, min_score=1e-3))),
)

del weights, v2
