# Step 4 of 12; published: 81.85 top-1.
_base_ = "./cascade_base_03_depthwise.py"

model = dict(
    backbone=dict(step="width"),
    neck=dict(in_channels=[512, 1024, 2048, 4096]),
)
