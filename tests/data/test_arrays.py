"""Captures made from arrays: the same as from files, checked, saved, and read by worker processes."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from headfields.data import Capture, CaptureError, PixelDataset, capture_from_arrays, load_capture, save_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.mesh.mesh import Mesh
from headfields.records import Camera, PixelBatch
from tests.data.compare import differences, snapshot
from tests.data.tiny import blob, tiny_frames
from tests.tables import table

FRAMES = tiny_frames()
CANONICAL = Mesh(*blob())


def arguments(**changes: Any) -> dict[str, Any]:
    given = {
        "images": np.stack([frame.image for frame in FRAMES]),
        "cameras": Camera.stack([frame.camera for frame in FRAMES]),
        "vertices": torch.stack([frame.vertices for frame in FRAMES]),
        "canonical": CANONICAL,
        "expression": torch.stack([frame.expression for frame in FRAMES]),
        "labels": [frame.label for frame in FRAMES],
        "depth": np.stack([frame.depth for frame in FRAMES]),
        "landmarks": [frame.landmarks for frame in FRAMES],
        "name": "tiny",
    }
    return given | changes


@pytest.fixture(scope="module")
def capture() -> Capture:
    return capture_from_arrays(**arguments())


def test_arrays_and_files_give_one_capture(capture: Capture, tmp_path: Path) -> None:
    write_insta(tmp_path / "tiny", FRAMES, *blob())
    read = load_capture(tmp_path / "tiny")
    assert differences(snapshot(capture), snapshot(read)) == []
    assert torch.equal(capture.template.faces, read.template.faces) and capture.template.regions.keys() == {
        "mouth", "eyes", "face"}  # fmt: skip
    assert capture.warnings == read.warnings == []
    assert capture.report[0].startswith("camera convention: world-to-camera, OpenCV axes, as given (score 0.")


def test_it_is_saved_and_read_again_bit_for_bit(capture: Capture, tmp_path: Path) -> None:
    save_capture(capture, tmp_path / "saved")
    assert differences(snapshot(capture), snapshot(load_capture(tmp_path / "saved"))) == []


class OnDemand:
    """Vertices that are computed when they are indexed."""

    def __len__(self) -> int:
        return len(FRAMES)

    def __getitem__(self, index: int) -> torch.Tensor:
        return FRAMES[index].vertices.double()


def test_files_sequences_and_mattes_may_stand_for_arrays(capture: Capture, tmp_path: Path) -> None:
    paths = []
    for index, frame in enumerate(FRAMES):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(frame.image[..., :3]).save(paths[-1])
    mattes = [frame.image[..., 3] > 0 for frame in FRAMES]
    made = capture_from_arrays(**arguments(images=paths, vertices=OnDemand(), mattes=mattes))
    assert torch.equal(made.image(2), capture.image(2)) and torch.equal(
        made.state(2).vertices, capture.state(2).vertices
    )
    bare = capture_from_arrays(**{key: arguments(images=[str(path) for path in paths])[key]
                                  for key in ("images", "cameras", "vertices", "canonical")})  # fmt: skip
    assert bool((bare.image(0)[..., 3] == 1).all()) and any("matte is 1 everywhere" in line for line in bare.report)
    assert bare.label(0) is None and bare.depth(0).max() > 0.5 and bare.landmarks(0) is None
    assert bare.state(0).expression is None


def test_splits_are_given_or_the_last_fifth(capture: Capture) -> None:
    assert {key: rows.tolist() for key, rows in capture.splits.items()} == {
        "train": [0, 1, 2, 3, 4], "test": [5], "val": [5], "all": list(range(6))}  # fmt: skip
    made = capture_from_arrays(**arguments(splits={"test": slice(0, 2), "hold": torch.tensor([5])}))
    assert {key: rows.tolist() for key, rows in made.splits.items()} == {
        "train": [2, 3, 4], "test": [0, 1], "val": [0, 1], "hold": [5], "all": list(range(6))}  # fmt: skip


# ---------------------------------------------------------------- mistakes


def cameras(convert: Any) -> Camera:
    given = arguments()["cameras"]
    return given.replace(world_to_camera=convert(given.world_to_camera))


FLIP = torch.diag(torch.tensor([1.0, -1, -1, 1]))


@table(
    ("convert", "remedy"),
    [
        (torch.linalg.inv, r"are camera-to-world: pass torch.linalg.inv\(matrix\)"),
        (lambda w: FLIP @ w, r"have OpenGL axes: pass torch.diag"),
        (lambda w: torch.linalg.inv(w) @ FLIP, r"are camera-to-world with OpenGL axes: pass torch.linalg.inv"),
    ],
)
@table("mattes", [True, False])
def test_matrices_of_another_convention_are_refused_with_the_remedy(convert: Any, remedy: str, mattes: bool) -> None:
    """The remedy in the message is right: it gives the cameras back."""
    images = arguments()["images"]
    given = arguments(cameras=cameras(convert), images=images if mattes else images[..., :3], depth=None, labels=None)
    with pytest.raises(CaptureError, match=f"cameras.world_to_camera puts .* if the matrices {remedy}") as caught:
        capture_from_arrays(**given)
    code = str(caught.value).rpartition(": pass ")[2]
    matrix = given["cameras"].world_to_camera
    repaired = eval(code, {"torch": torch, "matrix": matrix})
    torch.testing.assert_close(repaired, arguments()["cameras"].world_to_camera, atol=1e-5, rtol=0)


def nan_at(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    values[3, 1, 1] = torch.nan
    return values


GIVEN = arguments()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vertices": GIVEN["vertices"][:5]}, ValueError, "vertices has 5 frames, and images has 6; one each"),
        ({"images": []}, ValueError, "cameras has 6 frames, and images has 0"),
        ({"cameras": FRAMES[0].camera}, ValueError, r"world_to_camera has shape \(4, 4\); expected \(F, 4, 4\)"),
        ({"cameras": GIVEN["cameras"].world_to_camera}, TypeError, "cameras is a Tensor; pass a headfields Camera"),
        ({"canonical": blob()}, TypeError, "canonical is a tuple; pass headfields.Mesh"),
        ({"canonical": Mesh(CANONICAL.vertices, CANONICAL.faces[:0])}, ValueError, "canonical has no faces"),
        ({"frame_names": ["a"] * 6}, ValueError, "frame_names holds a name twice"),
        ({"depth_unit": 1000.0}, ValueError, "depth_unit is 1000.0; expected meters per step"),
        ({"mouth": "auto"}, ValueError, "mouth is 'auto'; expected one of close, interior, none"),
        ({"splits": {"test": [6]}}, IndexError, r"splits\['test'\]: frame 6 is out of range"),
        (
            {"vertices": nan_at(GIVEN["vertices"])},
            CaptureError,
            "frame 00003: vertices holds .* not finite",
        ),
        ({"vertices": GIVEN["vertices"][:, 1:]}, CaptureError, r"frame 00000: vertices has shape .* expected \(3"),
        ({"vertices": GIVEN["vertices"].long()}, CaptureError, "vertices has .* int64; expected .* floating-point"),
        ({"images": GIVEN["images"] / 255}, CaptureError, r"images has .* float64; expected uint8 \(\(values \* 255\)"),
        ({"images": GIVEN["images"][:, 1:]}, CaptureError, r"images has shape \(47, 40, 4\).*expected \(48, 40, 4\)"),
        (
            {"labels": [frame.label.astype(int) for frame in FRAMES]},
            CaptureError,
            "labels has .* int64; expected uint8",
        ),
        ({"depth": GIVEN["depth"] * 0.001}, CaptureError, "depth has .* float64; expected uint16"),
        ({"landmarks": [np.zeros((67, 2))] * 6}, CaptureError, r"landmarks has shape \(67, 2\)"),
        ({"images": ["nowhere.png"] * 6}, CaptureError, "frame 00000: images nowhere.png cannot be decoded"),
    ],
)
def test_what_does_not_fit_is_refused_by_frame_and_argument(
    changes: dict[str, Any], error: type[Exception], message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=f"capture_from_arrays: .*{message}"):
        capture_from_arrays(**arguments(**changes))


@pytest.mark.parametrize(("factor", "said"), [(1.8, "1.[78] times too wide"), (0.5, "(1.9|2.[01]) times too narrow")])
def test_a_wrong_focal_length_is_called_one(factor: float, said: str) -> None:
    lens = GIVEN["cameras"].intrinsics.clone()
    lens[..., :2, :2] *= factor
    with pytest.raises(CaptureError, match=f"cameras.intrinsics: the focal length is wrong: .* {said}"):
        capture_from_arrays(**{**GIVEN, "cameras": GIVEN["cameras"].replace(intrinsics=lens)})


def test_a_coefficient_that_no_tracker_gives_is_warned_of() -> None:
    wild = GIVEN["expression"].clone()
    wild[2, 1] = -9000.0
    with pytest.warns(UserWarning, match="expression coefficient 1 is -9000; those of trackers stay below 100"):
        capture_from_arrays(**{**GIVEN, "expression": wild}).state([0, 1, 2, 3])


def test_millimeters_are_refused() -> None:
    pose = GIVEN["cameras"].world_to_camera.clone()
    pose[:, :3, 3] *= 1000
    changes = {
        "cameras": GIVEN["cameras"].replace(world_to_camera=pose), "vertices": GIVEN["vertices"] * 1000,
        "canonical": CANONICAL.replace(vertices=CANONICAL.vertices * 1000), "depth": None,
    }  # fmt: skip
    with pytest.raises(CaptureError, match=r"it looks like millimeters: multiply by 0.001"):
        capture_from_arrays(**arguments(**changes))


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_spawned_workers_read_a_capture(capture: Capture, workers: int) -> None:
    """Processes of their own: what they send is what this process reads."""
    dataset = PixelDataset(capture, "all", count=7)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context="spawn")
    batches = list(loader)
    assert [len(state) for _, state in batches] == [4, 2]
    frames = []
    for pixels, state in batches:
        assert isinstance(pixels, PixelBatch) and pixels.rays.frame.tolist() == [
            row for row in range(len(state)) for _ in range(7)]  # fmt: skip
        assert torch.equal(state.vertices, capture.state(state.frame_id).vertices)
        frames += state.frame_id.tolist()
        for row, frame in enumerate(state.frame_id.tolist()):
            own = pixels[pixels.rays.frame == row]
            whole = capture.pixels(frame)
            place = (whole.rays.directions[None] - own.rays.directions[:, None]).norm(dim=-1).argmin(dim=1)
            assert torch.equal(whole.rgb[place], own.rgb) and torch.equal(whole.alpha[place], own.alpha)
    assert frames == list(range(6))


def test_a_dataset_of_pixels_is_repeated_by_its_seed(capture: Capture, unchecked: None) -> None:
    dataset = PixelDataset(capture, [1, 3], count=5, background="white")
    torch.manual_seed(4)
    first = dataset[0][0]
    torch.manual_seed(4)
    assert torch.equal(dataset[0][0].rgb, first.rgb) and not torch.equal(dataset[0][0].rgb, first.rgb)
    assert bool((first.background == 1).all()) and len(dataset) == 2
    assert len(pickle.dumps(dataset)) > 0 and len(PixelDataset(capture, [], count=5)) == 0
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(ValueError, match="has no split 'hold'; it has all, test, train, val"):
        PixelDataset(capture, "hold")
    with pytest.raises(TypeError, match="pass integers"):
        PixelDataset(capture, [1.5])
