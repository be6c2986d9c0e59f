# Step 8 of 12; published: 80.62 top-1.
_base_ = "./mask_rcnn_tiny_07_kernel_7.py"

model = dict(backbone=dict(step="gelu"))
