"""Annotation formats of other tools: a reader and a writer for each, to and from COCO, exactly.

A reader takes a folder and gives its splits, a writer the other way round; what is read is what a
format has, faults included, which :mod:`mmconvnext.data.checks` finds.
"""

from mmconvnext.data.formats import coco, cvat, labelme, labelstudio, voc, yolo
from mmconvnext.data.formats.common import Split

__all__ = ["FORMATS", "Split"]

FORMATS = {"coco": coco, "yolo": yolo, "voc": voc}
FORMATS |= {"labelstudio": labelstudio, "cvat": cvat, "labelme": labelme}
