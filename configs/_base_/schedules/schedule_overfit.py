# 900 iterations from scratch on a few images, evaluated three times.
_base_ = "./schedule_3x.py"

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=900, val_interval=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=900, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0)
)
