# Published: 50.4 box AP, 43.7 mask AP (3x, ImageNet-1K).
_base_ = [
    "./_base_/models/cascade_mask_rcnn_convnext.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/schedule_3x.py",
    "./_base_/default_runtime.py",
]
