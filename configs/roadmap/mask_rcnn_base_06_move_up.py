# Step 6 of 12; published: 82.04 top-1.
_base_ = "./mask_rcnn_base_05_inverted_bottleneck.py"

model = dict(backbone=dict(step="move_up"))
