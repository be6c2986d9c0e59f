# Step 2 of 12; published: 79.51 top-1.
_base_ = "../mask_rcnn_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="patchify",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
sync_bn = "torch"
