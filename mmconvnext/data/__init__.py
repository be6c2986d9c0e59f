"""Data sets that are made here."""

from mmconvnext.data.shapes import CLASSES, ShapesError, generate_shapes

__all__ = ["CLASSES", "ShapesError", "generate_shapes"]
