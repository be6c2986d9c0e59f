# V2 T's recipe with less drop path; nobody has published a result for it.
_base_ = "./mask_rcnn_convnextv2_t_coco.py"

weights = [w.replace("tiny", "femto") for w in _base_.model.backbone.init_cfg.checkpoint]
model = dict(
    backbone=dict(arch="femto", drop_path_rate=0.2, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[48 * 2**stage for stage in range(4)]),
)
del weights
