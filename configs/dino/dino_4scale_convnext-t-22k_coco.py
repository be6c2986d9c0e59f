# Published: 52.4 box AP (detrex, 12 epochs); weights of ImageNet-22K, then 1K at 384 pixels.
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="tiny", out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained",
            checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_tiny_22k_1k_384.pth",
            "timm://convnext_tiny.fb_in22k_ft_in1k_384"])),
    neck=dict(in_channels=[192, 384, 768]),
    data_preprocessor=dict(pad_size_divisor=32),
    positional_encoding=dict(temperature=10000, offset=-0.5),
    dn_cfg=dict(label_noise_scale=0.2),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))  # that of the backbone is kept
