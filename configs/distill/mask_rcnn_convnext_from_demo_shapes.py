# A smaller student of the demo's detector: `mmconvnext demo` leaves the teacher in demo/train.
_base_ = ["../mask_rcnn_convnext_shapes.py", "../_base_/distillation.py"]

widths = (8, 16, 32, 64)
model = dict(
    backbone=dict(arch=dict(depths=(1, 1, 2, 1), widths=widths)), neck=dict(in_channels=[*widths])
)
# The schedule clips gradients, of which the published 6 would leave the ground truth a small share.
teacher = dict(config="demo/train", feature=dict(loss_weight=1.0))
del widths
