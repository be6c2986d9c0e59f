custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
default_scope = "mmdet"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook",
        interval=1,
        max_keep_ckpts=3,
        save_best="coco/segm_mAP",
        rule="greater",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
# A head with another number of classes than the data set is refused before the first step.
custom_hooks = [dict(type="NumClassCheckHook")]
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
visualizer = dict(
    type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer"
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
randomness = dict(seed=0)
log_level = "INFO"
load_from = None
load_adapt = []  # what may differ in load_from: in_channels, kernel_size, num_classes, parts
resume = False
exact_resume = True  # as if the training had not been interrupted; see docs/reliability.md
val_loss = True  # beside AP; see docs/training.md for what it costs
max_skipped_steps = 10  # in a row, whose loss or gradient is not finite; None: not looked at
max_replaced_pictures = 0.01  # of a training set's that cannot be read; at least ten
# Of several processes; see docs/reliability.md.
shard = False  # parts weights, gradients and the optimizer's state among them
global_losses = False  # losses that do not depend on how many there are
