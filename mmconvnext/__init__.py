"""ConvNeXt detectors for MMDetection 3.x; importing this package registers them."""

from mmconvnext import compat

compat.install()

from mmconvnext.weights import sources  # noqa: E402

sources.install()

from mmconvnext.evaluation.coco_metric import FastCocoMetric  # noqa: E402
from mmconvnext.models import ConvNeXt, InstanceTTAModel  # noqa: E402
from mmconvnext.optim import LayerDecayOptimWrapperConstructor  # noqa: E402

__version__ = "0.2.0"

__all__ = [
    "ConvNeXt",
    "FastCocoMetric",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
    "__version__",
]
