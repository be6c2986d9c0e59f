# Step 1 of 12; published: 79.36 top-1.
_base_ = "./cascade_tiny_00_resnet.py"

model = dict(backbone=dict(step="stage_ratio", init_cfg=None))
