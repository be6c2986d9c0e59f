"""The ConvNeXt backbone and what detectors need beside it."""

from mmconvnext.models.convnext import ConvNeXt
from mmconvnext.models.tta import InstanceTTAModel
from mmconvnext.models.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "ConvNeXt", "InstanceTTAModel", "Variant"]
