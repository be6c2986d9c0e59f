"""From a checkpoint to this backbone, without losing a tensor unnoticed."""

from mmconvnext.weights.loader import WeightsError, load_pretrained

__all__ = ["WeightsError", "load_pretrained"]
