# Step 3 of 12; published: 80.54 top-1.
_base_ = "./cascade_base_02_patchify.py"

model = dict(backbone=dict(step="depthwise"))
