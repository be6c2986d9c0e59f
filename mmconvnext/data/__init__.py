"""Data sets: checks, transforms, and one that is drawn here."""

from mmconvnext.data.shapes import CLASSES, generate_shapes
from mmconvnext.errors import ShapesError

__all__ = ["CLASSES", "ShapesError", "generate_shapes"]
