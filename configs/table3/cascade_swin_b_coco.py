# Published: 51.9 box AP, 45.0 mask AP (3x, ImageNet-1K).
_base_ = "./cascade_swin_s_coco.py"

weights = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth"
model = dict(
    backbone=dict(
        **dict(embed_dims=128, num_heads=(4, 8, 16, 32), drop_path_rate=0.3),
        init_cfg=dict(checkpoint=weights),
    ),
    neck=dict(in_channels=[128 * 2**stage for stage in range(4)]),
)
del weights
