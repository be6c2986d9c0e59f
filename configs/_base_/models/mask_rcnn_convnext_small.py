# Three million parameters, trained from scratch on images of 160x160: two CPU cores do in minutes.
_base_ = "./mask_rcnn_convnext.py"

channels, num_classes = 64, 3
batch_norm = dict(type="BN")
# Objects of a small image take their features from the levels that those of a large one would.
roi_extractor = dict(out_channels=channels, finest_scale=28)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=(2, 2, 4, 2), widths=(32, 64, 128, 256)),
        drop_path_rate=0.0,
        # V2: GRN in place of layer scale converges faster from scratch.
        layer_scale_init_value=0.0,
        use_grn=True,
        init_cfg=None,
    ),
    neck=dict(
        in_channels=[32, 64, 128, 256], out_channels=channels, num_outs=4, norm_cfg=batch_norm
    ),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), **roi_extractor),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), **roi_extractor),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=num_classes),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            norm_cfg=batch_norm,
            num_classes=num_classes,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        # up to 24 objects; of the rest many, as a part of a shape looks like a whole one
        rcnn=dict(sampler=dict(num=96, pos_fraction=0.25)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

del channels, num_classes, batch_norm, roi_extractor
