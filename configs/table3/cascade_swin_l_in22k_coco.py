# Published: 53.9 box AP, 46.7 mask AP (3x, ImageNet-22K).
# At 800x1280 its windows of 7 count to 1391.6 G, 0.7 % more than the 1382 G published (12: 1440 G).
_base_ = "./cascade_swin_b_coco.py"

weights = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"
model = dict(
    backbone=dict(
        **dict(embed_dims=192, num_heads=(6, 12, 24, 48)), init_cfg=dict(checkpoint=weights)
    ),
    neck=dict(in_channels=[192 * 2**stage for stage in range(4)]),
)
del weights
