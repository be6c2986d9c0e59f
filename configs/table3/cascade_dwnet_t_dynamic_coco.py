# Published: 50.5 box AP, 43.7 mask AP (3x, ImageNet-1K): filters predicted from each image.
_base_ = "./cascade_dwnet_t_coco.py"

weights = "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/dynamic_dwnet_tiny_224.pth"
model = dict(backbone=dict(token_mixer="dynamic", init_cfg=dict(checkpoint=weights)))
del weights
