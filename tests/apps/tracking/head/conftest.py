"""A drawn recording of a person whom the head does not know, in FLAME's format and as blendshapes."""

import dataclasses

import numpy as np
import pytest
import torch

from headfields import Camera, Mesh
from headfields.apps.tracking import HeadTrackingOptions, RigTrackingOptions
from headfields.data.labels import Label
from headfields.data.untracked import UntrackedRecording
from headfields.heads import BlendshapeHead
from headfields.ops import TriangleBVH
from headfields.ops.render_mesh import render_mesh
from headfields.renderers.lighting import SHLighting, sh_basis
from headfields.synthetic import procedural_head

FRAMES, SIDE, FOCAL = 6, 96, 230.0


class Drawn:
    """The truth of the recording: `vertices` (F, V, 3), `cameras`, and the recording itself.

    `aside` turns the camera around the head, in degrees; the light stays that of the camera at 0.
    """

    def __init__(self, yaws: torch.Tensor, aside: float = 0.0) -> None:
        self.head = procedural_head()
        self.shape = self.head.shape(jaw_width=1.2, nose_length=-1.2, face_fullness=1.0, eye_spacing=0.8)
        count = len(yaws)
        weights = torch.linspace(0, 1, count)
        pose = torch.zeros(count, 5, 3)
        pose[:, 2, 0] = 0.25 * weights
        states = self.head(shape=self.shape, expression=self.head.expression(smile_left=1 - weights), pose=pose)
        self.vertices = states.vertices
        target = self.head.template_vertices.mean(0)
        first, orbit = (
            Camera.orbit(target, 0.75, yaw=yaws + turn, pitch=8.0 * torch.sin(yaws), size=(SIDE, SIDE), fov=24)
            for turn in (0.0, aside)
        )
        lens = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
        self.cameras = orbit.replace(intrinsics=lens.expand(count, 3, 3).clone())
        generator = torch.Generator().manual_seed(2)
        spots = torch.rand(12, 3, generator=generator)
        albedo = 0.55 + 0.25 * torch.sin((self.head.template_vertices[:, None] - 0.1 * spots).norm(dim=2) * 90).mean(1)
        light = SHLighting().coefficients.detach().clone()
        light[1], light[3] = -0.25 * light[0], 0.2 * light[0]
        images, labels, marks = [], [], []
        noise = np.random.default_rng(3)
        for row in range(count):
            camera = self.cameras[row]
            tree = TriangleBVH(self.head.faces, self.vertices[row][None])
            drawn = render_mesh(tree, camera, albedo[:, None].expand(-1, 3).contiguous())
            normal = drawn.normal @ first[row].world_to_camera.reshape(4, 4)[:3, :3].T
            rgb = (drawn.attributes * (sh_basis(normal.reshape(-1, 3)) @ light).reshape(SIDE, SIDE, 3)).clamp(0, 1)
            rgba = torch.cat([rgb, drawn.mask[..., None].float()], -1)
            images.append((rgba * 255).round().byte().numpy())
            labels.append(np.where(drawn.mask.numpy(), np.uint8(Label.SKIN), np.uint8(0)))
            points = camera.project(self.head.landmarks(self.vertices[row][None]))[0][0].numpy()
            marks.append((points + 0.3 * noise.normal(size=(68, 2))).astype(np.float32))
        self.from_first = orbit.world_to_camera.double() @ torch.linalg.inv(first.world_to_camera.double())
        self.recording = UntrackedRecording(
            "drawn", (SIDE, SIDE), [f"frame {row}" for row in range(count)], images.__getitem__, labels.__getitem__,
            marks.__getitem__, default_focal=1.2 * SIDE,
        )  # fmt: skip

    def calibrated(self) -> UntrackedRecording:
        """The recording of a camera that stands still in the space of the camera at 0."""
        lens = self.cameras.intrinsics[:1].reshape(1, 3, 3).double().numpy()
        return dataclasses.replace(self.recording, intrinsics=lens, world_to_camera=self.from_first.numpy())

    def mesh(self, row: int) -> Mesh:
        """The person in a frame."""
        return Mesh(self.vertices[row], self.head.faces)


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    return Drawn(torch.linspace(-40, 40, FRAMES))


@pytest.fixture(scope="session")
def cameras() -> tuple[Drawn, Drawn]:
    """One head that hardly turns, from two cameras."""
    yaws = torch.linspace(-10, 10, 4)
    return Drawn(yaws), Drawn(yaws, 35.0)


@pytest.fixture(scope="session")
def frontal() -> Drawn:
    return Drawn(torch.linspace(-0.5, 0.5, 3))


@pytest.fixture(scope="session")
def blendshapes() -> BlendshapeHead:
    """The procedural head's mean with its identities and a jaw as blendshapes."""
    head = procedural_head()
    pose = torch.zeros(1, 5, 3)
    pose[0, 2, 0] = 0.25
    jaw = head(pose=pose).vertices[0] - head.template_vertices
    marks = head.landmark_faces
    assert marks is not None and head.landmark_barycentric is not None
    corner = head.landmark_barycentric.argmax(1)
    return BlendshapeHead(
        head.template_vertices, head.faces, torch.stack([jaw, head.expression_basis[0]]),
        head.shape_basis[: len(head.shape_names)], ("jawOpen", head.expression_names[0]),
        head.faces[marks, corner],
    )  # fmt: skip


@pytest.fixture(scope="session")
def options() -> HeadTrackingOptions:
    frame = RigTrackingOptions(
        scales=HeadTrackingOptions().frame.scales, levels=(48, 80), steps=(2, 2), joint_steps=1, first_steps=8
    )
    return HeadTrackingOptions(frame=frame, keyframes=4, landmark_steps=12, rounds=1, steps=3, side=64)
