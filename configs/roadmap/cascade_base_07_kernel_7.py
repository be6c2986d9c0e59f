# Step 7 of 12; published: 82.30 top-1.
_base_ = "./cascade_base_06_move_up.py"

model = dict(backbone=dict(step="kernel_7"))
