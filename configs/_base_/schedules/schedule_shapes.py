# Some minutes on two CPU cores, from scratch.
max_iters = 1050
# Validation never begins: tools/test.py evaluates (val_begin=1 to see it during the training, too).
train_cfg = dict(
    type="IterBasedTrainLoop", max_iters=max_iters, val_begin=max_iters + 1, val_interval=200
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=max_iters, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise", num_layers="auto"),
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.97), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=4)

del max_iters
