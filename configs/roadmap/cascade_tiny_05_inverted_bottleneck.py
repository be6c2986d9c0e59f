# Step 5 of 12; published: 80.64 top-1.
_base_ = "../cascade_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="inverted_bottleneck",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
sync_bn = "torch"
