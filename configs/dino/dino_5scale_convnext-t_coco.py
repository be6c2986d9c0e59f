_base_ = "mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="tiny", out_indices=(0, 1, 2, 3),
        init_cfg=dict(type="Pretrained",
        checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth",
        "timm://convnext_tiny.fb_in1k"])),
    neck=dict(in_channels=[96, 192, 384, 768]),
    data_preprocessor=dict(pad_size_divisor=32),
)
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7),
)
