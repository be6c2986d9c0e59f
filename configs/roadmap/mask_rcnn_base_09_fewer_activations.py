# Step 9 of 12; published: 82.71 top-1.
_base_ = "./mask_rcnn_base_08_gelu.py"

model = dict(backbone=dict(step="fewer_activations"))
