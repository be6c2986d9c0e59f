# Step 3 of 12; published: 80.54 top-1.
_base_ = "../mask_rcnn_convnext_b_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="depthwise",
        regime="base",
        drop_path_rate=0.7,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[336, 672, 1344, 2688]),
)
sync_bn = "torch"
