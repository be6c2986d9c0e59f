# Does the whole path learn? A small Cascade Mask R-CNN overfits 8 real images:
#   python tools/train.py configs/cascade_convnext_overfit.py --data-root FOLDER_OF_COCO
_base_ = [
    "./_base_/models/cascade_mask_rcnn_convnext_small.py",
    "./_base_/datasets/coco_overfit.py",
    "./_base_/schedules/schedule_3x.py",
    "./_base_/default_runtime.py",
]

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=900, val_interval=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=900, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0)
)
default_hooks = dict(checkpoint=dict(interval=300, by_epoch=False), logger=dict(interval=20))
log_processor = dict(by_epoch=False)
