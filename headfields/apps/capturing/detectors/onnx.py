"""Detectors in ONNX files, run by onnxruntime (extra `capture`): landmarks, a matte or labels from one image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headfields.data.errors import CaptureError
from headfields.data.ibug_landmarks import ibug_points
from headfields.files.reading import check_file

__all__ = ["OnnxDetector"]

_SIDE = 256
"""Side of the input where the model leaves it open."""


class OnnxDetector:
    """A network of one image in and one array out.

    The image is resized to the model's input, (1, 3, H, W) or (1, H, W, 3), 8-bit or float. By the output's shape:
    landmarks (1, 68 or 478, 2 or 3) or flat, in fractions of the image, or in pixels of the input if any is above 1.5;
    a matte (1, 1, h, w) of probabilities; or scores (1, C, h, w) of C labels, which `classes` numbers.

    Args:
        model: the .onnx file.
        gives: what the output is.
        mean, deviation: subtracted from and divided into float input, as fractions of white.
        classes: INSTA's label of each of C scores; required for labels.

    Raises:
        FileNotFoundError: there is no such file.
        CaptureError: onnxruntime is not installed, the file is no model, or it does not take one image.
        ValueError: `classes` is missing.
    """

    def __init__(
        self, model: str | Path, gives: Literal["landmarks", "matte", "labels"], mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 1.0, classes: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        if gives == "labels" and classes is None:
            raise ValueError("OnnxDetector: labels need classes, INSTA's label of each of the model's scores")
        try:
            import onnxruntime
        except ImportError as error:
            raise CaptureError(
                f"OnnxDetector needs onnxruntime ({error}); install it: pip install headfields[capture]"
            ) from error
        self.path, self.gives, self.classes = check_file(model), gives, classes
        self._mean = np.asarray(mean, np.float32).reshape(-1)
        self._deviation = np.asarray(deviation, np.float32).reshape(-1)
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of onnxruntime's own for each reason
            raise CaptureError(f"{self.path} is no ONNX model that onnxruntime runs: {error}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise CaptureError(
                f"{self.path} has inputs {[(item.name, item.shape) for item in inputs]}; expected one image, "
                "(1, 3, H, W) or (1, H, W, 3)"
            )
        self._input, self._channels_last = inputs[0], shape[1] != 3
        sides = shape[1:3] if self._channels_last else shape[2:4]
        self._size = tuple(side if isinstance(side, int) and side > 0 else _SIDE for side in sides)

    def landmarks(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "68 2"] | None:
        """The landmarks in pixels of the image, if the model gives them."""
        if self.gives != "landmarks":
            return None
        points = self._run(image).reshape(-1)
        for count in (68, 468, 478):
            if points.size in (2 * count, 3 * count):
                face = ibug_points(points.reshape(count, -1), str(self.path))
                known = np.isfinite(face).all(1)
                if not known.any():
                    return None
                own = np.array([self._size[1], self._size[0]], np.float32) if face[known].max() > 1.5 else np.float32(1)
                return face / own * np.array([image.shape[1], image.shape[0]], np.float32)
        raise CaptureError(f"{self.path} gives {points.size} numbers; expected 68, 468 or 478 points of 2 or 3")

    def matte(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"] | None:
        """The matte at the image's size, if the model gives one."""
        if self.gives != "matte":
            return None
        map_ = self._run(image)
        if map_.size != np.prod(map_.shape[-2:]):
            raise CaptureError(f"{self.path} gives shape {map_.shape}; expected a matte (1, 1, h, w)")
        probability = np.asarray(map_, np.float32).reshape(map_.shape[-2:]).clip(0, 1)
        full = Image.fromarray(probability).resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR)
        return (np.asarray(full) * 255).round().astype(np.uint8)

    def labels(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"] | None:
        """INSTA's labels at the image's size, if the model gives scores."""
        if self.gives != "labels" or self.classes is None:
            return None
        scores = self._run(image)
        if scores.ndim != 4 or scores.shape[1] != len(self.classes):
            raise CaptureError(
                f"{self.path} gives shape {scores.shape}; expected scores (1, {len(self.classes)}, h, w)"
            )
        chosen = np.array(self.classes, np.uint8)[scores[0].argmax(0)]
        return np.asarray(
            Image.fromarray(chosen).resize((image.shape[1], image.shape[0]), Image.Resampling.NEAREST), np.uint8
        )

    def _run(self, image: np.ndarray) -> Any:
        resized = Image.fromarray(image).resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        if "uint8" not in self._input.type:
            pixels = ((pixels.astype(np.float32) / 255 - self._mean) / self._deviation).astype(np.float32)
        batch = pixels[None] if self._channels_last else pixels.transpose(2, 0, 1)[None]
        try:
            return np.asarray(self._session.run(None, {self._input.name: np.ascontiguousarray(batch)})[0])
        except Exception as error:  # a class of onnxruntime's own for each reason
            raise CaptureError(f"{self.path} does not run on an image: {error}") from error
