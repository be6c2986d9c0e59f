# Published: 54.4 box AP, 47.7 mask AP (3x, FCMAE on ImageNet-1K).
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

weights = [w.replace("tiny", "large") for w in _base_.model.backbone.init_cfg.checkpoint]
model = dict(
    backbone=dict(arch="large", drop_path_rate=0.5, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[192 * 2**stage for stage in range(4)]),
)
del weights
