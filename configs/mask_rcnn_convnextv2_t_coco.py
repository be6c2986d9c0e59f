# ConvNeXt V2-T with the recipe of V2-B, -L and -H; nobody has published a result for it.
_base_ = [
    "./_base_/models/mask_rcnn_convnext.py",
    "./_base_/datasets/coco_instance_lsj.py",
    "./_base_/schedules/schedule_3x.py",
    "./_base_/default_runtime.py",
]

# Of decay rate and drop path the paper gives only the sets that it searched, {0.9, 0.95} and
# {0.2, ..., 0.5}, not which model got what: here the milder decay, and more drop path for larger
# models.
model = dict(
    data_preprocessor=dict(
        # A batch costs the same whatever it holds; images are tested at their own size.
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)],
    ),
    backbone=dict(
        drop_path_rate=0.3,
        layer_scale_init_value=0.0,
        use_grn=True,
        init_cfg=dict(
            checkpoint=[
                "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt",
                "timm://convnextv2_tiny.fcmae",
            ],
        ),
    ),
    # Published is the name soft-NMS; method and numbers are mmcv's defaults.
    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms", method="linear", sigma=0.5, min_score=1e-3))),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-4))
# 8 GPUs x 4 images, the published total.
auto_scale_lr = dict(base_batch_size=32)
