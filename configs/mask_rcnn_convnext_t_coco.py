# Published: 46.2 box AP, 41.7 mask AP (3x, ImageNet-1K).
_base_ = [
    "./_base_/models/mask_rcnn_convnext.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/schedule_3x.py",
    "./_base_/default_runtime.py",
]

optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-4))
