"""From a checkpoint to this backbone, without losing a tensor unnoticed."""

from typing import TYPE_CHECKING

from mmconvnext.compat.imports import lazy_names

if TYPE_CHECKING:
    from mmconvnext.weights.loader import load_pretrained
from mmconvnext.errors import WeightsError

__all__ = ["WeightsError", "load_pretrained"]

# Lazy: sources are imported while MMEngine is, and the loader needs all of that.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "WeightsError": "mmconvnext.weights.loader",
        "load_pretrained": "mmconvnext.weights.loader",
    },
)
