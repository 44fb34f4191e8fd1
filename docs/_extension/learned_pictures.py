"""Pictures of parts that learn for some seconds: `python docs/_extension/learned_pictures.py [NAME ...]`.

They are written to docs/images/parts, as those of `pictures.py`. The whole takes a minute of one thread.
"""

import torch
from pictures import draw, photographs, to_8_bits

import headfields as hf
from headfields.training.densification import float_values


def main() -> None:
    draw([blendfield, error_warp, latent_codes, density])


def blendfield(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A blendfield fitted to a smile and to raised brows: how far it moves each point, and the two mixed."""
    states = torch.cat(
        [head.expression(smile_left=1.0, smile_right=1.0), head.expression(brow_raise_left=1.0, brow_raise_right=1.0)]
    )
    vertices = head().vertices[0]
    goal = head(expression=states).vertices - vertices
    torch.manual_seed(0)
    box = torch.stack([vertices.amin(0), vertices.amax(0)]) + torch.tensor([[-0.01], [0.01]])
    driven_by = hf.networks.BlendCoefficients({"expression": 2}, fields=4)
    field = hf.deformers.Blendfield(box, driven_by)
    optimizer = torch.optim.Adam(field.parameters(), 5e-3)
    inputs, frame = torch.eye(2), torch.arange(2).repeat_interleave(len(vertices))
    for _ in range(150):
        moved = field.displacement(vertices.repeat(2, 1), frame, driven_by.of(inputs))
        loss = (moved - goal.flatten(0, 1)).square().sum(-1).mean() * 1e6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.6]):
        with torch.no_grad():
            mixed = driven_by.of(torch.tensor([weights]))
            moved = field.displacement(vertices, torch.zeros(len(vertices)).long(), mixed)
        share = (moved.norm(dim=-1, keepdim=True) / 0.006).clamp(0, 1)
        look = torch.tensor([0.8, 0.8, 0.8]).lerp(torch.tensor([0.85, 0.25, 0.1]), share)
        view = face_cameras(torch.zeros(1), 144)[0]
        pictures.append(hf.viz.draw_mesh(hf.Mesh(vertices + moved, head.faces), view, look, samples=2))
    print(f"{float(loss.detach()) ** 0.5:.2f} mm from the goal")
    return pictures


def error_warp(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A face learned from frames whose cameras are some millimeters off: as it is, without a warp, with one."""
    yaw = torch.linspace(-10, 10, 12)
    cameras, generator = face_cameras(yaw, 64, 11), torch.Generator().manual_seed(0)
    errors = 0.005 * torch.randn(12, 2, generator=generator)
    errors = torch.nn.functional.pad(errors - errors.mean(0), (0, 1))
    matrix = cameras.world_to_camera.clone()
    matrix[:, :3, 3] += errors
    capture = still_capture(head, cameras.replace(world_to_camera=matrix), to_8_bits(photographs(head, cameras)))
    view, pictures = face_cameras(torch.tensor([0.0]), 128, 11)[0], []
    truth = photographs(head, face_cameras(torch.tensor([0.0]), 128, 11))[0, ..., :3]
    for corrected in (False, True):
        torch.manual_seed(0)
        near = hf.deformers.NearSurface(capture.template.canonical_vertices, capture.template.faces, shell=0.02)
        warp = hf.deformers.ErrorWarp(
            near.bounds(), 12, bands=2, hidden=32, layers=3, head_layers=1, start=20, coarse_to_fine=400,
            centered=True, code_std=1.0,
        )  # fmt: skip
        losses = [hf.losses.HuberColor(), hf.losses.OpacityLoss(0.1)]
        losses += [hf.losses.Elastic(samples=128), hf.losses.WarpMagnitude(samples=128, unit=1.0)] if corrected else []
        avatar = field_avatar(hf.deformers.Chain(near, warp) if corrected else near)
        train(avatar, capture, losses, {"warp": 2e-3} if corrected else {}, 400)
        pictures.append(avatar.render(view, capture.state([0])).rgb)
        print(f"{-10 * float((pictures[-1] - truth).square().mean().log10()):.1f} dB")
    return [truth, *pictures]


def latent_codes(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """A head learned with the light of each frame in its code, drawn with codes from the first one's to the last's."""
    count = 9
    cameras, share = face_cameras(torch.linspace(-15, 15, count), 64), torch.linspace(0, 1, count)[:, None, None, None]
    images = photographs(head, cameras)
    images[..., :3] *= torch.tensor([0.55, 0.7, 0.95]).lerp(torch.tensor([1.0, 0.8, 0.5]), share)
    capture = still_capture(head, cameras, to_8_bits(images))
    torch.manual_seed(0)
    near = hf.deformers.NearSurface(capture.template.canonical_vertices, capture.template.faces, shell=0.02)
    avatar = field_avatar(
        near,
        condition=hf.encoders.FrameCode("appearance", width=4),
        codes={"appearance": hf.networks.LatentTable(count, 4, std=0.1)},
    )
    losses = [hf.losses.HuberColor(), hf.losses.OpacityLoss(0.1), hf.losses.CodePrior("appearance", weight=1e-3)]
    train(avatar, capture, losses, {"codes": 1e-2})
    view, pictures = face_cameras(torch.tensor([0.0]), 110)[0], []
    first, last = (avatar.with_codes(capture.state([frame])).codes["appearance"] for frame in (0, count - 1))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        state = capture.state([0]).replace(codes={"appearance": (first + share * (last - first)).detach()})
        pictures.append(avatar.render(view, state).rgb)
    return pictures


def density(head: hf.heads.FlameHead) -> list[torch.Tensor]:
    """The gradients that density control reads, and how many Gaussians are near each point before and after it."""
    cameras = face_cameras(torch.linspace(-40, 40, 10), 96)
    capture = still_capture(head, cameras, to_8_bits(photographs(head, cameras)))
    torch.manual_seed(0)
    avatar = hf.models.gaussian_avatars(capture.template, count=1500, degree=0)
    recipe = hf.training.recipe_of("gaussian_avatars", "cpu")
    recipe.start(avatar, capture)
    control = hf.training.DensityControl(start=99, every=50, absolute=True, gradient=8e-3, size=0.002, reset_every=None)
    options = recipe.trainer_arguments(avatar, capture) | {"callbacks": [control], "device": "cpu", "bar": False}
    trainer = hf.training.Trainer(avatar, capture, **options | {"schedule": "constant"})
    vertices, counts = head().vertices[0], []
    for steps in (99, 260):
        trainer.fit(steps=steps)
        means = avatar.splats(capture.state([0])).means[0].detach()
        counts.append((torch.cdist(vertices, means) < 0.01).sum(-1) / 40)
        if steps == 99:
            gradient, drawn = (float_values(control.state_dict()[name], name) for name in ("gradient", "drawn"))
            nearest = hf.ops.VertexTree(means).nearest(vertices, k=6).index
            seen = (drawn[nearest] > 0).any(-1)
            mean = gradient[nearest].sum(-1) / drawn[nearest].sum(-1).clamp_min(1)
    print(f"{len(means)} Gaussians")
    view, mesh = face_cameras(torch.tensor([20.0]), 140)[0], hf.Mesh(vertices, head.faces)
    return [
        hf.viz.draw_mesh(mesh, view, hf.viz.heat(values, 1.0), samples=2)
        for values in ((mean / 0.016).where(seen, torch.nan), *counts)
    ]


def train(
    avatar: hf.Avatar, capture: hf.data.Capture, losses: list[hf.losses.Loss], rates: dict[str, float], steps: int = 250
) -> None:
    """Trains an avatar for so many steps."""
    hf.training.Trainer(
        avatar, capture, losses, rays_per_step=384, frames_per_step=12, schedule="exponential", learning_rate=1e-2,
        network_learning_rate=2.5e-3, learning_rates=rates, ema=0.0, bar=False, device="cpu", seed=0,
    ).fit(steps=steps)  # fmt: skip
    avatar.eval()


def field_avatar(deformer: hf.Deformer, **options) -> hf.Avatar:
    """A small hash grid behind a deformer."""
    return hf.Avatar(
        deformer,
        hf.encoders.HashGrid(6, 2, 13, 8, 128),
        decoder=hf.decoders.NeRFDecoder(hidden=32, direction_degree=0, density_bias=3.0),
        renderer=hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(20)),
        **options,
    )


def still_capture(head: hf.heads.FlameHead, cameras: hf.Camera, images: torch.Tensor) -> hf.data.Capture:
    """A capture of the head at rest, all frames for training."""
    vertices = head().vertices
    return hf.data.capture_from_arrays(
        images, cameras, vertices.expand(len(images), -1, -1), hf.Mesh(vertices[0], head.faces), mouth="none"
    )


def face_cameras(yaw: torch.Tensor, size: int, fov: float = 14) -> hf.Camera:
    """Cameras around a face, which fills their square images."""
    return hf.Camera.orbit((0.0, -0.01, 0.0), 1.0, yaw, size=(size, size), fov=fov)


if __name__ == "__main__":
    main()
