# A small detector that two CPU cores train from scratch in minutes (make demo).
_base_ = [
    "./_base_/models/mask_rcnn_convnext_small.py",
    "./_base_/datasets/shapes_instance.py",
    "./_base_/schedules/schedule_shapes.py",
    "./_base_/default_runtime.py",
]

default_hooks = dict(
    checkpoint=dict(interval=500, by_epoch=False), visualization=dict(score_thr=0.5)
)
log_processor = dict(by_epoch=False)
