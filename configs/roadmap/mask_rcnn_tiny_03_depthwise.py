# Step 3 of 12; published: 78.28 top-1.
_base_ = "./mask_rcnn_tiny_02_patchify.py"

model = dict(backbone=dict(step="depthwise"))
