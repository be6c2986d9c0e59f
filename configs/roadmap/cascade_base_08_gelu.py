# Step 8 of 12; published: 82.19 top-1.
_base_ = "./cascade_base_07_kernel_7.py"

model = dict(backbone=dict(step="gelu"))
