# Published: 55.7 box AP, 48.9 mask AP (3x, FCMAE on ImageNet-1K).
# Where 4 images do not fit a GPU: model.backbone.with_cp=True keeps fewer activations.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

weights = [w.replace("tiny", "huge") for w in _base_.model.backbone.init_cfg.checkpoint]
model = dict(
    backbone=dict(arch="huge", drop_path_rate=0.5, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[352 * 2**stage for stage in range(4)]),
)
del weights
