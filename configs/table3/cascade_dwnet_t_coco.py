# Published: 49.9 box AP, 43.4 mask AP (3x, ImageNet-1K): Swin-T without attention (2106.04263).
_base_ = "./cascade_swin_t_coco.py"

weights = (
    "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/dwnet_tiny_224.pth"
)
mixer = dict(type="MixerSwinTransformer", token_mixer="depthwise")
model = dict(backbone=dict(**mixer, init_cfg=dict(checkpoint=weights)))
sync_bn = "torch"
del weights, mixer
