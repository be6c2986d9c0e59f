# V2: GRN in place of layer scale, images of one size in training, soft-NMS in testing.
_base_ = "./mask_rcnn_convnext.py"

model = dict(
    data_preprocessor=dict(
        # A batch costs the same whatever is in it; images are tested at their own size.
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)],
    ),
    backbone=dict(layer_scale_init_value=0.0, use_grn=True),
    # Published is the name soft-NMS; method and numbers are mmcv's defaults.
    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms", method="linear", sigma=0.5, min_score=1e-3))),
)
