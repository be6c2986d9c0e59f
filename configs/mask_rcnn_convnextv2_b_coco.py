# Published: 52.9 box AP, 46.6 mask AP (3x, FCMAE on ImageNet-1K).
# MMDetection's project of this model reached 52.9 and 46.4 with this drop path and decay rate.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

weights = [w.replace("tiny", "base") for w in _base_.model.backbone.init_cfg.checkpoint]
model = dict(
    backbone=dict(arch="base", drop_path_rate=0.4, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[128 * 2**stage for stage in range(4)]),
)
del weights
