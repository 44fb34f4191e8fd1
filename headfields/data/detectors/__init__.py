"""Detectors that a recording needs before a head can be fitted: landmarks, mattes and labels of each frame.

None comes with weights: files of any detector, or a model file of the user's through MediaPipe or onnxruntime.
"""

from headfields.data.detectors.files import DetectionFiles
from headfields.data.detectors.mediapipe import MediaPipeFaces, MediaPipeSegmenter
from headfields.data.detectors.onnx import OnnxDetector
from headfields.data.detectors.points import IBUG_OF_MEDIAPIPE, ibug_points
from headfields.data.detectors.protocol import Detector

__all__ = ["IBUG_OF_MEDIAPIPE", "DetectionFiles", "Detector", "MediaPipeFaces", "MediaPipeSegmenter", "OnnxDetector",
           "ibug_points"]  # fmt: skip
