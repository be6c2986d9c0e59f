# Step 9 of 12; published: 82.71 top-1.
_base_ = "./cascade_base_08_gelu.py"

model = dict(backbone=dict(step="fewer_activations"))
