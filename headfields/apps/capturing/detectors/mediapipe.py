"""MediaPipe's Face Landmarker and Image Segmenter (extra `capture`), with a model file that the user passes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_name
from headfields.apps.faces.motion import FaceMotion
from headfields.data.errors import CaptureError
from headfields.data.labels import Label
from headfields.files.reading import check_file
from headfields.ops.rotations import axis_angle

__all__ = ["MediaPipeFaceShapes", "MediaPipeFaces", "MediaPipeSegmenter"]

_MULTICLASS = (Label.BACKGROUND, Label.HAIR, Label.NECK, Label.SKIN, Label.CLOTH, Label.HAT)
"""INSTA's label of each category of MediaPipe's multi-class selfie segmenter: background, hair, skin of the body, skin
of the face, clothes, other."""
_FACES = 4
"""Most faces that are looked for in one image, to know that there are several."""


def _tasks(what: str) -> tuple[Any, Any, Any]:
    try:
        import mediapipe
        from mediapipe.tasks import python
        from mediapipe.tasks.python import vision
    except ImportError as error:
        raise CaptureError(
            f"{what} needs MediaPipe ({error}); install it: pip install headfields[capture]. Or pass files of any "
            "detector: --landmarks, --mattes, --labels"
        ) from error
    return mediapipe, python, vision


def _model(path: str | Path, name: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; {name} is published with MediaPipe's models (ai.google.dev/edge/mediapipe), and is "
            "not downloaded for you"
        )
    return check_file(path)


def _face_landmarker(model: str | Path, owner: str, **further: bool) -> tuple[Any, Any]:
    """MediaPipe, and its Face Landmarker with further outputs."""
    path = _model(model, "face_landmarker.task")
    mediapipe, python, vision = _tasks(owner)
    try:
        base = python.BaseOptions(model_asset_path=str(path))
        options = vision.FaceLandmarkerOptions(base_options=base, num_faces=_FACES, **further)
        return mediapipe, vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise CaptureError(f"{path} is no model of MediaPipe's Face Landmarker: {error}") from error


class MediaPipeFaces:
    """MediaPipe's Face Landmarker: 478 points of each face, the irises among them.

    Args:
        model: `face_landmarker.task`.

    Raises:
        FileNotFoundError: there is no such file.
        CaptureError: MediaPipe is not installed, or does not accept the file.
    """

    def __init__(self, model: str | Path) -> None:
        self._mediapipe, self._task = _face_landmarker(model, "MediaPipeFaces")

    def landmarks(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "k 478 2"] | None:
        """The faces (K, 478, 2), pixels; None if there is none."""
        mediapipe = self._mediapipe
        result = self._task.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image)))
        if not result.face_landmarks:
            return None
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        return np.array([[[p.x, p.y] for p in face] for face in result.face_landmarks], np.float32) * size

    def matte(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """None: this model has no matte."""
        return None

    def labels(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """None: this model has no labels."""
        return None


class MediaPipeFaceShapes:
    """MediaPipe's Face Landmarker as a source of motion: ARKit's shapes but for the tongue, and the turn of the head.

    Its shapes have ARKit's names. The head's turn is the rotation of its transformation matrix, which takes its face
    (y up, z out of the face) to a camera that looks along -z: the axes of `FaceMotion`. Several faces are none.

    Args:
        model: `face_landmarker.task`.

    Raises:
        FileNotFoundError: there is no such file.
        CaptureError: MediaPipe is not installed, or does not accept the file.
    """

    def __init__(self, model: str | Path) -> None:
        further = {"output_face_blendshapes": True, "output_facial_transformation_matrixes": True}
        self._mediapipe, self._task = _face_landmarker(model, "MediaPipeFaceShapes", **further)

    def face(self, image: UInt8[np.ndarray, "h w 3"], time: float | int) -> FaceMotion | None:
        """The face of an image as one frame; None if there is none, or several.

        Args:
            image: sRGB.
            time: of the frame, seconds.
        """
        mediapipe = self._mediapipe
        result = self._task.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image)))
        if len(result.face_blendshapes) != 1:
            return None
        shapes, turn = torch.zeros(1, len(ARKIT_NAMES)), torch.zeros(1, 3)
        for category in result.face_blendshapes[0]:
            name = arkit_name(category.category_name)
            if name is not None:
                shapes[0, ARKIT_NAMES.index(name)] = float(category.score)
        if len(result.facial_transformation_matrixes):
            matrix = torch.as_tensor(np.asarray(result.facial_transformation_matrixes[0]), dtype=torch.float64)
            left, _, right = torch.linalg.svd(matrix[:3, :3])  # it scales, too
            turn = axis_angle(left @ right).float()[None]
        still = torch.zeros(1, 2, 3)
        return FaceMotion(torch.tensor([float(time)], dtype=torch.float64), shapes, turn, still, still[:, 0])


class MediaPipeSegmenter:
    """MediaPipe's selfie segmenters: a matte, and with the multi-class model labels of hair, skin and clothes.

    Args:
        model: `selfie_multiclass_256x256.tflite` or `selfie_segmenter.tflite`.

    Raises:
        FileNotFoundError: there is no such file.
        CaptureError: MediaPipe is not installed, or does not accept the file.
    """

    def __init__(self, model: str | Path) -> None:
        path = _model(model, "selfie_multiclass_256x256.tflite")
        self._mediapipe, python, vision = _tasks("MediaPipeSegmenter")
        try:
            options = vision.ImageSegmenterOptions(
                base_options=python.BaseOptions(model_asset_path=str(path)), output_confidence_masks=True
            )
            self._task = vision.ImageSegmenter.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            raise CaptureError(f"{path} is no model of MediaPipe's Image Segmenter: {error}") from error

    def landmarks(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """None: this model has no landmarks."""
        return None

    def matte(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        """1 minus the background's confidence, as 8 bits."""
        confidence = self._confidences(image)
        person = confidence[0] if len(confidence) == 1 else 1 - confidence[0]
        return (person.clip(0, 1) * 255).round().astype(np.uint8)

    def labels(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"] | None:
        """INSTA's label of the most confident category; None with a model of one or two categories."""
        confidence = self._confidences(image)
        if len(confidence) != len(_MULTICLASS):
            return None
        return np.array(_MULTICLASS, np.uint8)[confidence.argmax(0)]

    def _confidences(self, image: np.ndarray) -> Float[np.ndarray, "c h w"]:
        mediapipe = self._mediapipe
        result = self._task.segment(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image)))
        masks = [np.asarray(mask.numpy_view(), np.float32).reshape(image.shape[:2]) for mask in result.confidence_masks]
        return np.stack(masks)
