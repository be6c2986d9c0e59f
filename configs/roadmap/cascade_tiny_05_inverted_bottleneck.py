# Step 5 of 12; published: 80.64 top-1.
_base_ = "./cascade_tiny_04_width.py"

model = dict(
    backbone=dict(step="inverted_bottleneck"),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
