# Step 2 of 12; published: 81.59 top-1.
_base_ = "./cascade_base_01_stage_ratio.py"

model = dict(backbone=dict(step="patchify"))
