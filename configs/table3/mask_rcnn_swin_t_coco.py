# Published: 46.0 box AP, 41.6 mask AP (3x, ImageNet-1K).
_base_ = "../mask_rcnn_convnext_t_coco.py"

releases = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
pretrained = dict(type="Pretrained", checkpoint=releases + "swin_tiny_patch4_window7_224.pth")
swin = dict(type="SwinTransformer", drop_path_rate=0.2, convert_weights=True, init_cfg=pretrained)
model = dict(backbone=dict(_delete_=True, **swin))
undecayed = ("absolute_pos_embed", "relative_position_bias_table", "norm")
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, custom_keys={k: dict(decay_mult=0.0) for k in undecayed}),
    optimizer=dict(lr=1e-4),
)
del releases, pretrained, swin, undecayed
