"""Exported detectors on pictures, with NumPy, OpenCV and OpenVINO or ONNX Runtime alone."""

from mmconvnext.inference.prediction import Frame, Prediction
from mmconvnext.runtime.detector import Detector

__all__ = ["Detector", "Frame", "Prediction"]
