# Step 12 of 12; published: 81.97 top-1.
_base_ = "./mask_rcnn_tiny_11_layer_norm.py"

init_cfg = dict(_delete_=True, type="Pretrained", checkpoint="timm://convnext_tiny.fb_in1k")
model = dict(backbone=dict(step="separate_downsampling", init_cfg=init_cfg))
del init_cfg
