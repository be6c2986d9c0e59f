# Step 6 of 12; published: 79.92 top-1.
_base_ = "./mask_rcnn_tiny_05_inverted_bottleneck.py"

model = dict(backbone=dict(step="move_up"))
