_base_ = "./convnext_fpn.py"

# The three stages of the cascade differ only in these.
stage_iou_thresholds = [0.5, 0.6, 0.7]
stage_target_stds = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])

sampler = dict(type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1)
model = dict(
    type="CascadeRCNN",
    rpn_head=dict(loss_bbox=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0)),
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type="ConvFCBBoxHead",
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type="SyncBN", requires_grad=True),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for stds in stage_target_stds
        ],
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[
            dict(
                assigner=dict(
                    **dict(type="MaxIoUAssigner", match_low_quality=False, ignore_iof_thr=-1),
                    **dict(pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou),
                ),
                sampler=dict(add_gt_as_proposals=True, **sampler),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in stage_iou_thresholds
        ],
    ),
)

del stage_iou_thresholds, stage_target_stds, sampler
