"""Detectors that a recording needs before a head can be fitted: landmarks, mattes and labels of each frame.

None comes with weights: files of any detector, or a model file of the user's through MediaPipe or onnxruntime.
"""
