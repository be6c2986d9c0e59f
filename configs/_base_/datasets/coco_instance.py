data_root = "data/coco/"

load_image = dict(type="LoadImageFromFile")
load_annotations = dict(type="FastLoadAnnotations", with_bbox=True, with_mask=True)
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")

# Multi-scale training with random crops, as in DETR and Sparse R-CNN.
short_sides = [(side, 1333) for side in range(480, 801, 32)]
resize = dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True)
before_crop = [(side, 1333) for side in (400, 500, 600)]
crop = dict(crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True)
resize_crop_resize = [
    dict(type="RandomChoiceResize", scales=before_crop, keep_ratio=True),
    dict(type="RandomCrop", **crop),
    resize,
]
train_pipeline = [
    load_image,
    load_annotations,
    dict(type="FastRandomFlip", prob=0.5),
    dict(type="RandomChoice", transforms=[[resize], resize_crop_resize]),
    dict(type="FastPackDetInputs"),
]
test_resize = dict(type="Resize", scale=(1333, 800), keep_ratio=True)
pack = dict(type="FastPackDetInputs", meta_keys=meta_keys)
test_pipeline = [load_image, test_resize, load_annotations, pack]
dataset = dict(type="CocoDataset", data_root=data_root)
workers = dict(num_workers=2, persistent_workers=True, pin_memory=True)
train_dataloader = dict(
    **workers,
    batch_size=2,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        **dataset,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **workers,
    batch_size=1,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="FastCocoMetric",  # CocoMetric computed by hotcoco, where that is installed
    ann_file=data_root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

# Test-time augmentation (tools/test.py --tta): the image and its mirror image.
tta_model = dict(
    type="InstanceTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
)
pack_flipped = dict(type="FastPackDetInputs", meta_keys=(*meta_keys, "flip", "flip_direction"))
flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
tta_pipeline = [
    load_image,
    dict(type="TestTimeAug", transforms=[[test_resize], flips, [load_annotations], [pack_flipped]]),
]

del load_image, load_annotations, meta_keys, short_sides, resize, before_crop, crop
del resize_crop_resize, test_resize, dataset, workers, pack, pack_flipped, flips
