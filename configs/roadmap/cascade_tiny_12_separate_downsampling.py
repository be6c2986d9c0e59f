# Step 12 of 12; published: 81.97 top-1.
_base_ = "../cascade_convnext_t_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="separate_downsampling",
        regime="tiny",
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="timm://convnext_tiny.fb_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
