# Step 1 of 12; published: 81.33 top-1.
_base_ = "../cascade_convnext_b_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="stage_ratio",
        regime="base",
        drop_path_rate=0.7,
        init_cfg=None,  # no weights are published
    ),
    neck=dict(in_channels=[336, 672, 1344, 2688]),
)
sync_bn = "torch"
