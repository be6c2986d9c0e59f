"""The ConvNeXt backbone and what detectors need beside it."""

from mmconvnext.compat.imports import lazy_names

__all__ = ["ConvNeXt", "InstanceTTAModel", "MixerSwinTransformer", "ModernizedResNet"]

__getattr__ = lazy_names(
    __name__,
    {
        "ConvNeXt": "convnext",
        "InstanceTTAModel": "tta",
        "MixerSwinTransformer": "swin",
        "ModernizedResNet": "roadmap",
    },
)
