"""The subcommands about priors of heads: their arguments and help texts. What they do is in the modules they import."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from headfields.cli.arguments import Capture, Number, OtherFile


def train_prior(
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    people: Annotated[int | None, Number] = None,
    expressions: Annotated[int | None, Number] = None,
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    head: Literal["procedural"] | None = None,
    blendshapes: OtherFile = None,
    nphm: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    nphm_data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    nphm_anchors: OtherFile = None,
    nphm_neutrals: OtherFile = None,
    held_out: Annotated[int | None, Number] = None,
    minutes: Annotated[float | None, Number] = None,
    steps: Annotated[int | None, Number] = None,
    resume: bool = False,
    seed: Annotated[int | None, Number] = None,
    sizes: Literal["small", "paper"] | None = None,
    ambient: Annotated[int | None, Number] = None,
    scans_per_step: Annotated[int | None, Number] = None,
    pictures: Annotated[int, Number] = 12,
    device: str = "auto",
) -> None:
    """Train a prior of heads (MonoNPHM) on scans of many people: `headfields train-prior --out RUN --minutes 25`.

    The scans are drawn: people and expressions of the procedural head, or of a rig of blendshapes; or they are read:
    registered meshes in a folder, or what NPHM's preprocessing wrote. RUN receives config.json, scans/ (those drawn),
    log.csv, images/ (truth | model of a few people, and of those held out), checkpoint/, and at the end
    prior.safetensors, for `headfields.load_prior`, and metrics.json. Ctrl-C saves a checkpoint; the same command with
    --resume goes on from it.

    Args:
        out: Folder of the run.
        people: How many people are drawn, 80 if not given.
        expressions: How many meshes of each, the neutral one among them; 10 if not given.
        data: Folder of registered meshes (see the page on priors for its files), in place of drawn ones.
        head: What is drawn from, if neither --data nor --blendshapes is given.
        blendshapes: Draw from this npz with template, faces, expression and identity in place of the procedural head.
        nphm: Folder of NPHM's preprocessed scans: surface_pointclouds and deformations. Needs the two that follow.
        nphm_data: Folder of NPHM's people, with registration.ply of their neutral scans.
        nphm_anchors: Numbers of the registration's vertices that are anchors: NPHM's anchors_65.npy or anchors_39.npy.
        nphm_neutrals: JSON of each person's neutral expression, {"17": 0}; the lowest number if not given.
        held_out: How many further people (of a folder: of its people, the last) are not trained on, but fitted at the
            end; 2 if not given.
        minutes: Stop after so many minutes of training in all; 25 on a CPU if neither limit is given.
        steps: Stop after so many optimizer steps in all.
        resume: Go on from the run's checkpoint, as it was started.
        seed: Of people, weights, scans and points; 0 if not given.
        sizes: Of networks, codes and batches: small, for minutes on a CPU, or the paper's; small on a CPU if not given.
        ambient: Hyper-coordinates, 2 if not given.
        scans_per_step: Scans that a step takes; 8 with small sizes and 64 with the paper's if not given.
        pictures: How many times in a run pictures are drawn; 0 draws none, of people held out neither.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import priors

    options = priors.Options(
        out=out, data=data, head=head, blendshapes=blendshapes, nphm=nphm, nphm_data=nphm_data,
        nphm_anchors=nphm_anchors, nphm_neutrals=nphm_neutrals, people=people, expressions=expressions,
        held_out=held_out, minutes=minutes, steps=steps, resume=resume, seed=seed, ambient=ambient,
        small=None if sizes is None else sizes == "small", scans_per_step=scans_per_step, pictures=pictures,
        device=device,
    )  # fmt: skip
    priors.train_prior(options)


def track(
    capture: Capture,
    prior: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    frames: Annotated[int | None, Number] = None,
    every: Annotated[int, Number] = 1,
    resume: bool = False,
    quick: bool = False,
    hold_pose: bool = False,
    image: bool = False,
    stage1_only: bool = False,
    landmarks: OtherFile = None,
    hair: Literal["auto", "yes", "no"] = "auto",
    mesh: Annotated[int | None, Number] = None,
    seed: Annotated[int | None, Number] = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Fit a prior's head to a capture: `headfields track --capture DIR --prior FILE --out RUN`.

    Shape, appearance, light and a color affine once, expression and head pose for each frame: first frame by frame,
    then all together, smoothly. RUN receives meshes, codes, poses, a picture of each frame, a video, errors.json (how
    well each frame fits, and which failed by what), profile.json, and the same in MonoNPHM's layout. Frames that fail
    are named and left out. Ctrl-C ends it in good order; the same command with --resume goes on to the same result.
    Weights and steps are MonoNPHM's, but for what keeps people likely.

    Args:
        capture: Folder of the capture; it needs landmarks.
        prior: What `headfields train-prior` made: its folder, or prior.safetensors.
        out: Folder of the run.
        frames: So many frames alone, from the first.
        every: Every so many frames.
        resume: Go on with what is in RUN.
        quick: Fewer rays, samples and steps, for minutes on a CPU, and poses held a little to where frames start; our
            own choice.
        hold_pose: Trust the head's pose as the capture has it, and hold on to it; our own choice.
        image: The first frame alone, with the weights and steps for a single image.
        stage1_only: Leave the second stage out.
        landmarks: File of the prior's landmarks; landmarks.npz beside the prior, or found from its scans, if not given.
        hair: Whether the prior's heads have hair; of the capture it does not count if not. auto: no, for priors drawn
            from parametric heads.
        mesh: Cells along the longest side of the grid for meshes; 0 makes none.
        seed: Of rays and samples.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import tracking

    tracking.track(
        tracking.Options(
            capture=capture, prior=prior, out=out, frames=frames, every=every, resume=resume, quick=quick,
            hold_pose=hold_pose, image=image, joint=not stage1_only, landmarks=landmarks,
            hair={"auto": None, "yes": True, "no": False}[hair], mesh=mesh, seed=seed, memory=memory, device=device,
        )
    )  # fmt: skip
