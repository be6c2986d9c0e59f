_base_ = "mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py"
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
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7),
)
