"""Data sets: checks, transforms, and one that is drawn here, which comes in when it is needed."""

from typing import TYPE_CHECKING

from mmconvnext.compat.imports import lazy_names
from mmconvnext.errors import ShapesError

if TYPE_CHECKING:
    from mmconvnext.data.shapes import CLASSES, generate_shapes

__all__ = ["CLASSES", "ShapesError", "generate_shapes"]

__getattr__ = lazy_names(__name__, dict.fromkeys(("CLASSES", "generate_shapes"), "shapes"))
