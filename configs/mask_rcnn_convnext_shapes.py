# A small detector that two CPU cores train from scratch in minutes (make demo).
_base_ = [
    "./_base_/models/mask_rcnn_convnext.py",
    "./_base_/datasets/shapes_instance.py",
    "./_base_/schedules/schedule_shapes.py",
    "./_base_/default_runtime.py",
]

channels = 64
batch_norm = dict(type="BN")
# Objects of a small image take their features from the levels that those of a large one would.
roi_extractor = dict(out_channels=channels, finest_scale=28)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=(2, 2, 4, 2), widths=(32, 64, 128, 256)),
        drop_path_rate=0.0,
        # V2: GRN in place of layer scale learns faster from scratch.
        layer_scale_init_value=0.0,
        use_grn=True,
        init_cfg=None,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, norm_cfg=batch_norm),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), **roi_extractor),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), **roi_extractor),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=3),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            norm_cfg=batch_norm,
            num_classes=3,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
default_hooks = dict(
    checkpoint=dict(interval=500, by_epoch=False), visualization=dict(score_thr=0.5)
)
log_processor = dict(by_epoch=False)

del channels, batch_norm, roi_extractor
