# Step 7 of 12; published: 80.57 top-1.
_base_ = "./mask_rcnn_tiny_06_move_up.py"

model = dict(backbone=dict(step="kernel_7"))
