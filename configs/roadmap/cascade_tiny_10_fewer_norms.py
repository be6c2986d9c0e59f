# Step 10 of 12; published: 81.41 top-1.
_base_ = "./cascade_tiny_09_fewer_activations.py"

model = dict(backbone=dict(step="fewer_norms"))
