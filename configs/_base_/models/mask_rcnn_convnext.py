_base_ = "./convnext_fpn.py"

assigner = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
sampler = dict(type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1)
stds = [0.1, 0.1, 0.2, 0.2]
model = dict(
    type="MaskRCNN",
    rpn_head=dict(loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=-1),
        rpn_proposal=dict(max_per_img=1000),
        rcnn=dict(
            assigner=dict(match_low_quality=True, ignore_iof_thr=-1, **assigner),
            sampler=dict(add_gt_as_proposals=True, **sampler),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
)

del assigner, sampler, stds
