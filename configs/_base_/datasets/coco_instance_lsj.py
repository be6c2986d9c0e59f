# Large-scale jitter ("Simple Copy-Paste", arXiv 2012.07177) at 1024. Testing stays at 1333x800: at
# what size ConvNeXt V2 was tested is not known, but its FLOPs are those of 1280x800 (B has 485 G
# there and 495 G at 1024x1024; published are 486 G), and MMDetection's run of B tests at 1333x800.
_base_ = "./coco_instance.py"

size = (1024, 1024)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="FastLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    # What the crop left of an object may be nothing.
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type="FastRandomFlip", prob=0.5),
    dict(type="FastPackDetInputs"),
]
train_dataloader = dict(
    batch_size=4,
    batch_sampler=None,  # all are padded to one size: nothing is saved by grouping by aspect ratio
    dataset=dict(pipeline=train_pipeline),
)

del size
