# Narrow heads and few regions on the smallest backbone, randomly initialised: for trials on a CPU.
_base_ = "./cascade_mask_rcnn_convnext.py"

channels = 64
norm = dict(type="GN", num_groups=16)  # the same in training and testing, unlike BN of two images
roi_extractor = dict(out_channels=channels, roi_layer=dict(sampling_ratio=2))
bbox_head = dict(type="Shared2FCBBoxHead", in_channels=channels, fc_out_channels=256)
of_conv_head = ("num_shared_convs", "num_shared_fcs", "conv_out_channels", "norm_cfg")
model = dict(
    backbone=dict(
        arch="atto", drop_path_rate=0.0, layer_scale_init_value=0.0, use_grn=True, init_cfg=None
    ),
    neck=dict(
        in_channels=[40 * 2**stage for stage in range(4)], out_channels=channels, norm_cfg=norm
    ),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        mask_roi_extractor=roi_extractor,
        bbox_head=[
            {k: v for k, v in {**stage, **bbox_head}.items() if k not in of_conv_head}
            for stage in _base_.model.roi_head.bbox_head
        ],
        mask_head=dict(
            num_convs=2, in_channels=channels, conv_out_channels=channels, norm_cfg=norm
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=96, pos_fraction=0.5))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)

del channels, norm, roi_extractor, bbox_head, of_conv_head
