# Step 12 of 12; published: 83.60 top-1.
_base_ = "../mask_rcnn_convnext_b_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ModernizedResNet",
        step="separate_downsampling",
        regime="base",
        drop_path_rate=0.7,
        init_cfg=dict(type="Pretrained", checkpoint="timm://convnext_base.fb_in1k"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
