# Step 11 of 12; published: 81.47 top-1.
_base_ = "../cascade_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="layer_norm",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=None,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
