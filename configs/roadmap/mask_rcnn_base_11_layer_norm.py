# Step 11 of 12; published: 83.35 top-1.
_base_ = "../mask_rcnn_convnext_b_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="layer_norm",
        regime="base",
        drop_path_rate=0.7,
        init_cfg=None,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
