# Step 4 of 12; published: 80.50 top-1.
_base_ = "./mask_rcnn_tiny_03_depthwise.py"

model = dict(
    backbone=dict(step="width"),
    neck=dict(in_channels=[384, 768, 1536, 3072]),
)
