# Three box heads on the backbone and necks of the demo instead of one.
_base_ = "./mask_rcnn_convnext_small.py"

head = _base_.model.roi_head.bbox_head
stage = _base_.model.train_cfg.rcnn
model = dict(
    type="CascadeRCNN",
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                head,
                bbox_coder=dict(head.bbox_coder, target_stds=stds),
                reg_decoded_bbox=True,
                loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                stage,
                assigner=dict(
                    stage.assigner,
                    match_low_quality=False,
                    **dict.fromkeys(("pos_iou_thr", "neg_iou_thr", "min_pos_iou"), iou),
                ),
                sampler=dict(stage.sampler, num=48, pos_fraction=0.5),
            )
            for iou in (0.5, 0.6, 0.7)
        ]
    ),
)

del head, stage
