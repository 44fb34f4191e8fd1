"""Fitting a held-out frame's pose and codes to its image, to separate misalignment from quality.

A tracker errs by a millimeter, and a sharp avatar loses more PSNR by that than a blurred one. Here the avatar is
frozen, and the tracked pose of one frame is corrected by gradient descent on the frame's own pixels. Figures after
refinement use the test image: they measure the avatar's quality, not how well it predicts the frame. Our
own choice (MonoAvatar, Bai et al. 2023, drops its error-correction warp at test time and mentions the remaining
misalignment).
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headfields.data.expression_basis import expression_basis
from headfields.metrics import image as metrics
from headfields.ops.rigid import rigid_transform
from headfields.ops.rotations import rotation_angle, rotation_matrices
from headfields.ops.skinning import blend_shapes
from headfields.parts import Rendering
from headfields.records import Camera, HeadState
from headfields.records.device_copy import device_named
from headfields.runs.nonfinite import SkippedSteps, finite_gradients
from headfields.runs.progress import NanLossError
from headfields.training.frames import choose_frames, device_of, ground_truth

__all__ = ["Refinement", "correct_pose", "refine_frame"]

_DEPTH = 3.0  # factor on steps along the optical axis, which images constrain less and where trackers err more
_FINAL_RATE = 0.05  # factor on the learning rates at the last step
_TRACKED = ("eyelids",)  # codes that the tracker measured, which are not latent
_DELTA = 0.1  # where the Huber loss turns linear, in units of color


@dataclass(frozen=True)
class Refinement:
    """A frame with camera and state fitted to its image.

    Attributes:
        camera: the corrected camera, one.
        state: the corrected state, one frame.
        rotation: angle of the correction of the pose, degrees.
        translation: shift of the head's center in the camera's frame, millimeters.
        psnr_before, psnr_after: PSNR of the whole image over `refine_frame`'s background, dB.
        rendering: rendering after refinement, (H, W, ...).
        seconds: run time of the fit, without the two renderings for the PSNR.
        left_out: parameters that could not be refined, and why.
        skipped: number of steps that were skipped because the loss or a gradient was not finite.
    """

    camera: Camera
    state: HeadState
    rotation: float
    translation: float
    psnr_before: float
    psnr_after: float
    rendering: Rendering
    seconds: float
    left_out: tuple[str, ...] = field(default=())
    skipped: int = 0


def correct_pose(
    camera: Camera, turn: Float[Tensor, "3"], shift: Float[Tensor, "3"], center: Float[Tensor, "3"]
) -> Camera:
    """A camera for which the head is turned about its center and shifted, both along the camera's axes.

    x_camera → exp(turn) (x_camera − c) + c + shift, with c the center in the camera's frame. A turn about the center
    moves the head's image little, so turn and shift are nearly independent.

    Args:
        camera: one camera.
        turn: (3,) axis-angle, radians.
        shift: (3,) meters.
        center: (3,) of the head, world space, meters.

    Differentiable to any order.

    >>> import torch
    >>> from headfields.records import Camera
    >>> from headfields.training.refinement import correct_pose
    >>> camera = Camera(torch.eye(4), torch.eye(3), (4, 4))
    >>> shifted = correct_pose(camera, torch.zeros(3), torch.tensor([0.0, 0.0, 0.01]), torch.tensor([0.0, 0.0, 0.5]))
    >>> round(float(shifted.world_to_camera[2, 3]), 3)  # the head is a centimeter further away
    0.01
    """
    view = camera.world_to_camera
    rotation = rotation_matrices(turn)
    pivot = view[:3, :3] @ center + view[:3, 3]
    return camera.replace(world_to_camera=rigid_transform(rotation, pivot - rotation @ pivot + shift) @ view)


def refine_frame(
    avatar: Any,
    capture: Any,
    frame: int,
    camera: Camera | None = None,
    state: HeadState | None = None,
    pose: bool = True,
    expression: bool = False,
    codes: bool = True,
    basis: Float[Tensor, "e v 3"] | None = None,
    steps: int = 60,
    rays: int = 1024,
    pose_rate: float = 5e-4,
    expression_rate: float = 0.02,
    code_rate: float = 0.01,
    background: float | int = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    psnr_before: float | None = None,
) -> Refinement:
    """Fits one frame's head pose, and optionally expression and codes, to the frame's image; the avatar is unchanged.

    Adam (β 0.9, 0.99) on `rays` random pixels per step, among those whose rays come near the head, or on the whole
    image of an avatar of Gaussians; the rates fall exponentially to a twentieth. The loss is Huber's (δ = 0.1) on color
    over `background`. The pose is corrected by `correct_pose`; a step turns the head by about `pose_rate` meters at its
    surface and shifts it by as much, three times that along the optical axis. If PSNR does not rise, camera and state
    are returned as they were.

    Args:
        avatar: a trained `headfields.Avatar` or `headfields.SplatAvatar`.
        capture: whose image is fitted.
        frame: index of the frame.
        camera, state: the start, one camera and one frame; the capture's if None.
        pose: whether to correct the head's pose.
        expression: whether to correct the expression coefficients, and the vertices with them. For that the relation
            between the two must be linear and known: `basis`, or the `expression` of `blendshapes.npz` in the
            capture's folder, if it reproduces the capture's meshes.
        codes: whether to correct the latent codes, those of the state and those of the avatar's tables by
            frame. They start at what the frame has in evaluation.
        basis: (E, V, 3) displacement of the vertices per unit of each coefficient, meters.
        steps: number of optimizer steps.
        rays: number of rays per step; an avatar of Gaussians ignores it.
        pose_rate: learning rate of the pose, meters.
        expression_rate, code_rate: learning rates, in units of coefficients and codes.
        background: gray in [0, 1] behind both sides.
        seed: seed of the pixel sampling.
        device: device to run on; that of the avatar's parameters if None.
        psnr_before: PSNR of the unrefined frame, if known; saves a rendering.

    Returns:
        A `Refinement`; its camera and state are detached. Gradients, mode and `requires_grad` of the avatar are
        restored.

    Raises:
        ValueError: the frame is not in the capture, steps or rays are below 1, or a basis does not fit the state.

    Sample positions along the rays and nearest triangles are constants; the points at the samples' middles are
    differentiated through deformer, encoder and decoder.
    """
    if steps < 1 or rays < 1:
        raise ValueError(f"refine_frame: steps is {steps} and rays {rays}; both must be at least 1")
    frame = choose_frames(capture, "all", [frame])[0]
    device = device_of(avatar) if device is None else device_named("refine_frame", device)
    index = torch.tensor([frame])
    camera = (capture.camera(index) if camera is None else camera).to(device)
    camera = camera if camera.world_to_camera.dim() == 2 else camera[0]
    lens = None if camera.distortion is None else camera.distortion.flatten()
    view, intrinsics = camera.world_to_camera.reshape(4, 4), camera.intrinsics.reshape(3, 3)
    camera = Camera(view, intrinsics, camera.size, lens).detach()
    state = (capture.state(index) if state is None else state).to(device).detach()
    with _evaluated(avatar), torch.no_grad():
        filled = avatar.with_codes(state).codes  # so that codes of the frame are fitted, and those of the person stay
        own = {name: filled[name] for name, table in avatar.codes.items() if table.by == "frame"}
        state = state.replace(codes={**state.codes, **own})
        latent = [name for name in state.codes if name not in _TRACKED]
    truth, _ = ground_truth(capture, frame, background, device)
    if psnr_before is None:
        psnr_before = _psnr(avatar.render(camera, state, background), truth)
    started = time.perf_counter()
    parameters = _FrameParameters(camera, state, capture, pose, expression, latent if codes else [], basis)
    rates = {"pose": pose_rate, "expression": expression_rate, "codes": code_rate}
    skipped = 0
    if parameters.groups:
        with _evaluated(avatar):
            skipped = _descend(avatar, parameters, truth, background, steps, rays, rates, seed)
    refined_camera, refined_state = parameters.frame()
    refined_camera, refined_state = refined_camera.detach(), refined_state.detach()
    seconds = time.perf_counter() - started
    rendering = avatar.render(refined_camera, refined_state, background)
    psnr_after = _psnr(rendering, truth)
    if not psnr_after > psnr_before:  # also if it is NaN
        refined_camera, refined_state, psnr_after = camera, state, psnr_before
        rendering = avatar.render(refined_camera, refined_state, background)
    degrees, millimeters = _moved(camera, refined_camera, parameters.center)
    return Refinement(
        refined_camera,
        refined_state,
        degrees,
        millimeters,
        psnr_before,
        psnr_after,
        rendering,
        seconds,
        tuple(parameters.left_out),
        skipped,
    )


class _FrameParameters:
    """Corrections of a frame as parameters that start at 0, and the corrected frame."""

    def __init__(
        self,
        camera: Camera,
        state: HeadState,
        capture: Any,
        pose: bool,
        expression: bool,
        codes: Sequence[str],
        basis: Tensor | None,
    ) -> None:
        self.camera, self.state = camera, state
        vertices = state.vertices[0]
        self.center = vertices.mean(0)
        self.radius = torch.linalg.vector_norm(vertices - self.center, dim=-1).square().mean().sqrt().clamp_min(1e-6)
        self.left_out: list[str] = []
        self.basis: Tensor | None = None
        self.groups: dict[str, list[nn.Parameter]] = {}
        if pose:
            self.groups["pose"] = [nn.Parameter(vertices.new_zeros(3)) for _ in range(2)]
        if expression:
            self.basis = self._basis(capture, basis)
        if self.basis is not None and state.expression is not None:
            self.groups["expression"] = [nn.Parameter(torch.zeros_like(state.expression))]
        self._codes = list(codes)
        if codes:
            self.groups["codes"] = [nn.Parameter(torch.zeros_like(state.codes[name])) for name in codes]

    @property
    def state_changes(self) -> bool:
        """Whether the state depends on the parameters, so that the field is prepared for every step."""
        return bool({"expression", "codes"} & set(self.groups))

    def frame(self) -> tuple[Camera, HeadState]:
        """The corrected camera and state."""
        camera, state = self.camera, self.state
        if "pose" in self.groups:
            turn, shift = self.groups["pose"]
            camera = correct_pose(camera, turn / self.radius, shift * shift.new_tensor([1, 1, _DEPTH]), self.center)
        if "expression" in self.groups and self.basis is not None and state.expression is not None:
            (correction,) = self.groups["expression"]
            state = state.replace(
                vertices=state.vertices + blend_shapes(correction, self.basis), expression=state.expression + correction
            )
        if "codes" in self.groups:
            corrections = dict(zip(self._codes, self.groups["codes"], strict=True))
            moved = {name: state.codes[name] + correction for name, correction in corrections.items()}
            state = state.replace(codes={**state.codes, **moved})
        return camera, state

    def _basis(self, capture: Any, basis: Tensor | None) -> Tensor | None:
        state = self.state
        if state.expression is None:
            self.left_out.append("expression: the capture has no coefficients")
            return None
        if basis is not None:
            shape = (state.expression.shape[1], state.vertices.shape[1], 3)
            if basis.shape != shape:
                raise ValueError(
                    f"refine_frame: basis has shape {tuple(basis.shape)}; expected {shape} for the state's "
                    f"{shape[0]} coefficients and {shape[1]} vertices"
                )
            return basis.to(state.vertices)
        known_basis, reason = expression_basis(capture)
        if known_basis is None:
            self.left_out.append(f"expression: {reason}")
            return None
        return known_basis.to(state.vertices)


def _descend(
    avatar: Any,
    parameters: _FrameParameters,
    truth: Float[Tensor, "h w 3"],
    background: float | int,
    steps: int,
    rays: int,
    rates: Mapping[str, float],
    seed: int,
) -> int:
    """Optimizes the parameters; how many steps were skipped. After ten in a row it ends where it is."""
    generator = torch.Generator().manual_seed(seed)
    width = parameters.camera.size[1]
    whole_images = bool(getattr(avatar, "whole_images", False))
    if not whole_images:
        with torch.no_grad():
            prepared = avatar.field(parameters.state)
            near, far = prepared.near_far(parameters.camera.rays())
            near_head = (near < far).nonzero()[:, 0].cpu()
        if not len(near_head):
            return 0
    optimizer = torch.optim.Adam(
        [{"params": group, "lr": rates[name]} for name, group in parameters.groups.items()], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, _FINAL_RATE ** (1 / steps))
    colors = truth.reshape(-1, 3)
    behind = truth.new_full((1, 3), float(background))
    skipped, fitted = SkippedSteps(), [parameter for group in parameters.groups.values() for parameter in group]
    for step in range(steps):
        camera, state = parameters.frame()
        if whole_images:
            rgb, target = avatar(camera, state, behind).rgb.reshape(-1, 3), colors
        else:
            drawn = near_head[torch.randint(len(near_head), (rays,), generator=generator)].to(truth.device)
            pixels = torch.stack([torch.div(drawn, width, rounding_mode="floor"), drawn % width], dim=-1)
            current = avatar.field(state) if parameters.state_changes else prepared
            rgb, target = avatar.renderer(camera.rays(pixels), current, behind.expand(rays, 3)).rgb, colors[drawn]
        loss = functional.huber_loss(rgb, target, delta=_DELTA) / _DELTA
        optimizer.zero_grad(set_to_none=True)
        if not loss.requires_grad:  # no sample anywhere
            continue
        loss.backward(inputs=fitted)  # and of nothing that is frozen
        if finite_gradients(loss, fitted):
            skipped.accept()
            optimizer.step()
            schedule.step()
            continue
        try:
            skipped.skip(step, "the loss or a gradient")
        except NanLossError:
            break
    return skipped.total


@contextlib.contextmanager
def _evaluated(avatar: nn.Module) -> Iterator[None]:
    """Puts the avatar into evaluation mode and enables gradients."""
    training = avatar.training
    avatar.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        avatar.train(training)


def _psnr(rendering: Rendering, truth: Float[Tensor, "h w 3"]) -> float:
    value = metrics.psnr(rendering.rgb.clamp(0, 1), truth)
    return math.nan if value is None else value


def _moved(before: Camera, after: Camera, center: Float[Tensor, "3"]) -> tuple[float, float]:
    """Rotation in degrees and translation of the center in millimeters between two cameras."""
    change = after.world_to_camera.double() @ torch.linalg.inv(before.world_to_camera.double())
    centers = [view[:3, :3] @ center + view[:3, 3] for view in (before.world_to_camera, after.world_to_camera)]
    return float(torch.rad2deg(rotation_angle(change[:3, :3]))), 1000 * float((centers[1] - centers[0]).norm())
