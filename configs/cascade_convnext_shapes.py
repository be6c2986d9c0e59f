# The demo's data and sizes with three box heads instead of one.
_base_ = [
    "./_base_/models/cascade_mask_rcnn_shapes.py",
    "./_base_/datasets/shapes_instance.py",
    "./_base_/schedules/schedule_shapes.py",
    "./_base_/default_runtime.py",
]

default_hooks = dict(
    checkpoint=dict(interval=500, by_epoch=False), visualization=dict(score_thr=0.5)
)
log_processor = dict(by_epoch=False)
