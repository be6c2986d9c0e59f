# V2 atto's recipe, taught by the published Mask R-CNN T; nobody has published a result for it.
_base_ = ["../mask_rcnn_convnextv2_atto_coco.py", "../_base_/distillation.py"]

teacher = dict(
    config="mask_rcnn_convnext_t_coco.py",
    checkpoint="https://dl.fbaipublicfiles.com/convnext/coco/mask_rcnn_convnext_tiny_1k_3x.pth",
)
