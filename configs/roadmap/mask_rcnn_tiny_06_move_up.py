# Step 6 of 12; published: 79.92 top-1.
_base_ = "../mask_rcnn_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="move_up",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
sync_bn = "torch"
