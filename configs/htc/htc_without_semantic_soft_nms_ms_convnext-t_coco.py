# HTC with soft-NMS; `mmconvnext test CONFIG CHECKPOINT --tta` tests at three scales, mirrored, too.
_base_ = "htc_without_semantic_convnext-t_coco.py"
soft_nms = dict(type="soft_nms", iou_threshold=0.5)
model = dict(test_cfg=dict(rcnn=dict(nms=soft_nms)))
tta_model = dict(type="InstanceTTAModel", tta_cfg=dict(nms=soft_nms, max_per_img=100))
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TestTimeAug", transforms=[
        [dict(type="Resize", scale=(1600, side), keep_ratio=True) for side in (600, 800, 1000)],
        [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
        [dict(type="LoadAnnotations", with_bbox=True, with_mask=True)],
        [dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape",
            "scale_factor", "flip", "flip_direction"))]]),
]
del soft_nms
