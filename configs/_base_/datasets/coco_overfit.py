# The first images of the training set, for training and testing alike, small and never changed.
_base_ = "./coco_instance.py"

num_images = 8
load_image = _base_.test_pipeline[0]
load_annotations = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
resize = dict(type="Resize", scale=(512, 384), keep_ratio=True)
# With the instances the metric needs no annotation file, which would have all images.
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
pack_flipped = dict(type="PackDetInputs", meta_keys=(*meta_keys, "flip", "flip_direction"))
flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]

pack = dict(type="PackDetInputs", meta_keys=meta_keys)
test_pipeline = [load_image, resize, load_annotations, pack]
tta_pipeline = [
    load_image,
    dict(type="TestTimeAug", transforms=[[resize], flips, [load_annotations], [pack_flipped]]),
]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        indices=num_images,
        pipeline=[load_image, load_annotations, resize, dict(type="PackDetInputs")],
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

del num_images, load_image, load_annotations, resize, meta_keys, pack, pack_flipped, flips
