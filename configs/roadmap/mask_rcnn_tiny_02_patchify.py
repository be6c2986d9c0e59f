# Step 2 of 12; published: 79.51 top-1.
_base_ = "./mask_rcnn_tiny_01_stage_ratio.py"

model = dict(backbone=dict(step="patchify"))
