# ConvNeXt V2-T with the recipe of V2-B, -L and -H; nobody has published a result for it.
_base_ = [
    "./_base_/models/mask_rcnn_convnextv2.py",
    "./_base_/datasets/coco_instance_lsj.py",
    "./_base_/schedules/schedule_3x.py",
    "./_base_/default_runtime.py",
]

# Of decay rate and drop path the paper gives only the sets that it searched, {0.9, 0.95} and
# {0.2, ..., 0.5}: here the milder decay, and more drop path for larger models.
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-4))
auto_scale_lr = dict(base_batch_size=32)  # 8 GPUs x 4 images, the published total
