# Step 0 of 12; published: 81.14 top-1.
_base_ = "../cascade_convnext_b_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="resnet",
        regime="base",
        drop_path_rate=0.7,
        init_cfg=None,
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
sync_bn = "torch"
