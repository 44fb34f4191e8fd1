"""Detectors that run a model file: ONNX networks made here, and what is said where a model or a library is missing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headfields.apps.capturing.detectors.mediapipe import MediaPipeFaces, MediaPipeFaceShapes, MediaPipeSegmenter
from headfields.apps.capturing.detectors.onnx import OnnxDetector
from headfields.data.errors import CaptureError
from headfields.ops.rotations import rotation_matrices

IMAGE = np.zeros((40, 60, 3), np.uint8)
IMAGE[:, 30:] = 255


def network(path, output, shape, nodes, input_shape=(1, 3, 20, 30), constants=()):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes(helper), "drawn", [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_matte_labels_and_landmarks_of_networks(tmp_path):
    pytest.importorskip("onnxruntime")
    matte = network(
        tmp_path / "matte.onnx", "out", (1, 1, 20, 30),
        lambda h: [h.make_node("ReduceMean", ["image"], ["out"], axes=[1], keepdims=1)],
    )  # fmt: skip
    result = OnnxDetector(matte, "matte").matte(IMAGE)
    assert result.shape == (40, 60) and result[20, 5] == 0 and result[20, 55] == 255
    labels = network(
        tmp_path / "labels.onnx", "out", (1, 3, 20, 30), lambda h: [h.make_node("Mul", ["image", "c"], ["out"])],
        constants=[("c", np.array([1, 2, 1.5], np.float32).reshape(1, 3, 1, 1))],
    )  # fmt: skip
    drawn = OnnxDetector(labels, "labels", classes=(0, 250, 80)).labels(IMAGE)
    assert drawn[20, 5] == 0 and drawn[20, 55] == 250
    points = np.linspace(0.1, 0.9, 136, dtype=np.float32).reshape(1, 68, 2)
    marks = network(
        tmp_path / "marks.onnx", "out", (1, 68, 2),
        lambda h: [h.make_node("ReduceMean", ["image"], ["zero"], axes=[0, 1, 2, 3], keepdims=0),
                   h.make_node("Mul", ["zero", "none"], ["nothing"]),
                   h.make_node("Add", ["nothing", "points"], ["out"])],
        constants=[("none", np.array(0, np.float32)), ("points", points)],
    )  # fmt: skip
    assert np.allclose(OnnxDetector(marks, "landmarks").landmarks(IMAGE), points[0] * [60, 40], atol=1e-4)
    assert OnnxDetector(marks, "landmarks").matte(IMAGE) is None
    with pytest.raises(CaptureError, match=r"marks\.onnx gives shape \(1, 68, 2\); expected scores"):
        OnnxDetector(marks, "labels", classes=(0, 1)).labels(IMAGE)
    with pytest.raises(CaptureError, match=r"matte\.onnx gives 600 numbers"):
        OnnxDetector(matte, "landmarks").landmarks(IMAGE)


def test_shapes_and_the_heads_turn_of_mediapipe(tmp_path, monkeypatch):
    """A stand-in of its library: names of its own are left out, and scale is no turn."""
    turn = np.eye(4)
    turn[:3, :3] = 7 * rotation_matrices(torch.tensor([0.1, 0.4, -0.2], dtype=torch.float64)).numpy()
    shapes = [SimpleNamespace(category_name=name, score=score) for name, score in
              (("_neutral", 0.9), ("jawOpen", 0.25), ("eyeLookOutLeft", 0.5))]  # fmt: skip
    faces = {"count": 1}

    class Task:
        def detect(self, image):
            count = faces["count"]
            return SimpleNamespace(face_blendshapes=count * [shapes], facial_transformation_matrixes=count * [turn])

    options = {}
    vision = SimpleNamespace(
        FaceLandmarkerOptions=options.update, FaceLandmarker=SimpleNamespace(create_from_options=lambda _: Task())
    )
    library = SimpleNamespace(Image=lambda kind, pixels: pixels, ImageFormat=SimpleNamespace(SRGB=1))
    tasks = (library, SimpleNamespace(BaseOptions=dict), vision)
    monkeypatch.setattr("headfields.apps.capturing.detectors.mediapipe._tasks", lambda what: tasks)
    (tmp_path / "model.task").write_bytes(b"a model")
    detector = MediaPipeFaceShapes(tmp_path / "model.task")
    assert options["output_face_blendshapes"] and options["output_facial_transformation_matrixes"]
    face = detector.face(IMAGE, 1.5)
    assert face is not None and face.times.tolist() == [1.5]
    assert face.weights(0) == {"jawOpen": 0.25, "eyeLookOutLeft": 0.5}
    assert face.head[0].tolist() == pytest.approx([0.1, 0.4, -0.2], abs=1e-5)
    for count in (0, 2):
        faces["count"] = count
        assert detector.face(IMAGE, 0) is None


def test_models_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    for kind, name in ((MediaPipeFaces, "face_landmarker.task"), (MediaPipeSegmenter, "selfie_multiclass")):
        with pytest.raises(FileNotFoundError, match=f"{name}.*not downloaded"):
            kind(tmp_path / "none.task")
    with pytest.raises(ValueError, match="labels need classes"):
        OnnxDetector(tmp_path / "no.onnx", "labels")
    pytest.importorskip("onnxruntime")
    with pytest.raises(CaptureError, match=r"no\.onnx is no ONNX model"):
        OnnxDetector(tmp_path / "no.onnx", "matte")
    flat = network(tmp_path / "flat.onnx", "out", (1, 4), lambda h: [h.make_node("Identity", ["image"], ["out"])],
                   input_shape=(1, 4))  # fmt: skip
    with pytest.raises(CaptureError, match="expected one image"):
        OnnxDetector(flat, "matte")


def test_missing_libraries_say_how_to_get_them(tmp_path, monkeypatch):
    (tmp_path / "model.task").write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for detector in (MediaPipeFaces, MediaPipeSegmenter, lambda path: OnnxDetector(path, "matte")):
        with pytest.raises(CaptureError, match=r"pip install headfields\[capture\]"):
            detector(tmp_path / "model.task")
