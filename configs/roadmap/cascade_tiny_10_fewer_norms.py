# Step 10 of 12; published: 81.41 top-1.
_base_ = "../cascade_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="fewer_norms",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
sync_bn = "torch"
