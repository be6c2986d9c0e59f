_base_ = "mmdet::tood/tood_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="tiny", out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained",
        checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth",
        "timm://convnext_tiny.fb_in1k"])),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.7),
    optimizer=dict(_delete_=True, type="AdamW", lr=0.0001, weight_decay=0.05),
)
