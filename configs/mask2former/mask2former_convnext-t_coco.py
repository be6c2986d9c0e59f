_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="tiny", out_indices=(0, 1, 2, 3),
        init_cfg=dict(type="Pretrained",
        checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth",
        "timm://convnext_tiny.fb_in1k"])),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, custom_keys=dict(query_embed=dict(lr_mult=1.0,
        decay_mult=0.0), query_feat=dict(lr_mult=1.0, decay_mult=0.0), level_embed=dict(lr_mult=1.0,
        decay_mult=0.0))),
)
