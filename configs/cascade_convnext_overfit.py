# Does the whole path learn? A small Cascade Mask R-CNN learns 8 real images by heart:
#   python tools/train.py configs/cascade_convnext_overfit.py --data-root FOLDER_OF_COCO
_base_ = "./cascade_convnext_t_coco.py"

num_images = 8
scale = (512, 384)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        # With the instances the metric needs no annotation file, which would have all images.
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances"),
    ),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=scale, keep_ratio=True)],
            [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
            [dict(type="LoadAnnotations", with_bbox=True, with_mask=True)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=(*test_pipeline[-1]["meta_keys"], "flip", "flip_direction"),
                )
            ],
        ],
    ),
]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        indices=num_images,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="Resize", scale=scale, keep_ratio=True),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        indices=num_images,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        test_mode=False,  # filters as the training does: the same images
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

channels = 64
norm = dict(type="GN", num_groups=16)  # the same in training and testing, unlike BN of two images
roi_extractor = dict(out_channels=channels, roi_layer=dict(sampling_ratio=2))
head = dict(
    type="Shared2FCBBoxHead",
    in_channels=channels,
    fc_out_channels=256,
    roi_feat_size=7,
    num_classes=80,
    reg_class_agnostic=False,
    reg_decoded_bbox=True,
    loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
)
model = dict(
    backbone=dict(
        arch="atto", drop_path_rate=0.0, layer_scale_init_value=0.0, use_grn=True, init_cfg=None
    ),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=channels, norm_cfg=norm),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        mask_roi_extractor=roi_extractor,
        bbox_head=[
            dict(
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds
                ),
                **head,
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ],
        mask_head=dict(
            num_convs=2, in_channels=channels, conv_out_channels=channels, norm_cfg=norm
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler",
                    num=96,
                    pos_fraction=0.5,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)

max_iters = 900
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=max_iters, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    paramwise_cfg=dict(decay_rate=0.95), optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0)
)
default_hooks = dict(checkpoint=dict(interval=300, by_epoch=False), logger=dict(interval=20))
log_processor = dict(by_epoch=False)

del num_images, scale, channels, norm, roi_extractor, head, max_iters
