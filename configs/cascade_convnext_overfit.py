# Does the whole path learn? A small Cascade Mask R-CNN overfits 8 real images:
#   python tools/train.py configs/cascade_convnext_overfit.py --data-root FOLDER_OF_COCO
_base_ = [
    "./_base_/models/cascade_mask_rcnn_convnext_small.py",
    "./_base_/datasets/coco_overfit.py",
    "./_base_/schedules/schedule_overfit.py",
    "./_base_/default_runtime.py",
]

default_hooks = dict(checkpoint=dict(interval=300, by_epoch=False), logger=dict(interval=20))
log_processor = dict(by_epoch=False)
