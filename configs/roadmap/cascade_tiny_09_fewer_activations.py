# Step 9 of 12; published: 81.27 top-1.
_base_ = "./cascade_tiny_08_gelu.py"

model = dict(backbone=dict(step="fewer_activations"))
