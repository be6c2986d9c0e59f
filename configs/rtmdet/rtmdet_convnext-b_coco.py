# Published: 53.1 box AP (MMDetection, 100 epochs, 4 GPUs with 32 images each).
_base_ = "mmdet::rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py"
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="ConvNeXt", arch="base", out_indices=(1, 2, 3),
        drop_path_rate=0.7, with_cp=True,
        init_cfg=dict(type="Pretrained",
            checkpoint=["https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_1k_384.pth",
            "timm://convnext_base.fb_in22k_ft_in1k_384"])),
    data_preprocessor=dict(pad_size_divisor=32),
)
optim_wrapper = dict(constructor="LayerDecayOptimWrapperConstructor")
auto_scale_lr = dict(base_batch_size=128)
