# Step 10 of 12; published: 83.17 top-1.
_base_ = "./mask_rcnn_base_09_fewer_activations.py"

model = dict(backbone=dict(step="fewer_norms"))
