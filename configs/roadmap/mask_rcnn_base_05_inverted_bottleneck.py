# Step 5 of 12; published: 82.64 top-1.
_base_ = "./mask_rcnn_base_04_width.py"

model = dict(
    backbone=dict(step="inverted_bottleneck"),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
