"""The ConvNeXt backbone and what detectors need beside it."""

from typing import TYPE_CHECKING

from mmconvnext.compat.imports import lazy_names

if TYPE_CHECKING:
    from mmconvnext.models.convnext import ConvNeXt
    from mmconvnext.models.tta import InstanceTTAModel
    from mmconvnext.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "ConvNeXt", "InstanceTTAModel", "Variant"]

# Lazy: layers are imported while MMEngine is, before there is a base class for a backbone.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "VARIANTS": "mmconvnext.variants",
        "ConvNeXt": "mmconvnext.models.convnext",
        "InstanceTTAModel": "mmconvnext.models.tta",
        "Variant": "mmconvnext.variants",
    },
)
