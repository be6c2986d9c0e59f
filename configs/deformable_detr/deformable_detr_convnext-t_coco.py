_base_ = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="tiny", out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained",
        checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth",
        "timm://convnext_tiny.fb_in1k"])),
    neck=dict(in_channels=[192, 384, 768]),
    data_preprocessor=dict(pad_size_divisor=32),
)
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7,
        custom_keys=dict(sampling_offsets=dict(lr_mult=0.1), reference_points=dict(lr_mult=0.1))),
)
