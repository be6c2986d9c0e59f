# Step 1 of 12; published: 81.33 top-1.
_base_ = "./cascade_base_00_resnet.py"

model = dict(
    backbone=dict(step="stage_ratio"),
    neck=dict(in_channels=[336, 672, 1344, 2688]),
)
