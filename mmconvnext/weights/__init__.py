"""From a checkpoint to this backbone, without losing a tensor unnoticed."""

from mmconvnext.compat.imports import lazy_names

__all__ = ["load_pretrained"]

__getattr__ = lazy_names(__name__, {"load_pretrained": "load"})
