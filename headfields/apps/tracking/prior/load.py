"""A trained prior and its landmarks, read from disk for tracking."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headfields.apps.priors import Prior, load_prior
from headfields.apps.priors.codes import anchors_of
from headfields.apps.priors.scans import load_scans
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.tracking.prior.head import TrackingPrior
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.heads import BlendshapeHead

__all__ = ["open_prior", "prior_landmarks"]


def open_prior(
    path: str | Path, landmarks: str | Path | None = None, hair: bool | None = None, head: Any = None
) -> TrackingPrior:
    """A prior with its landmarks, for `PriorTracker`.

    Landmarks come from `landmarks`, else from landmarks.npz next to the prior (both files of `LandmarkPoints.save`).
    Without either, they are computed from the training scans in `scans/` next to the prior, if `headfields train-prior`
    drew these from a parametric head, and saved as landmarks.npz.

    Args:
        path: the file of the prior, or the folder of a run of `headfields train-prior`.
        landmarks: a file of landmarks.
        hair: whether the prior's heads have hair; if None, False for scans drawn from a parametric head, else True.
        head: the parametric head that the training scans were drawn from: `hf.synthetic.procedural_head()` after
            `train-prior` without `--blendshapes` (with it, the head is read from that file). Only used to compute
            landmarks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file holds something else, or the prior's landmarks are unknown.
    """
    path = Path(path)
    prior = load_prior(path)
    source = prior.about.get("trained", {}).get("scans", {})
    from_head = "head" in source or "blendshapes" in source
    hair = not from_head if hair is None else hair
    folder = path if path.is_dir() else path.parent
    saved = folder / "landmarks.npz"
    if landmarks is None and saved.is_file():
        landmarks = saved
    if landmarks is not None:
        return TrackingPrior.of(prior, LandmarkPoints.load(landmarks).kept(), hair)
    if "blendshapes" in source:
        head = BlendshapeHead.from_file(source["blendshapes"])
    has_scans = from_head and (folder / "scans" / "scans.json").is_file()
    if has_scans and head is not None:
        points = prior_landmarks(prior, load_scans(folder / "scans"), head)
        with contextlib.suppress(OSError):  # in a read-only folder they are computed each time
            points.save(saved)
        return TrackingPrior.of(prior, points.kept(), hair)
    if has_scans:
        raise ValueError(
            f"open_prior: {saved} does not exist, and head is None; to compute landmarks from {folder / 'scans'}, pass "
            "the head that these scans were drawn from, head=hf.synthetic.procedural_head()"
        )
    raise ValueError(
        f"open_prior: the landmarks of the prior are unknown: {saved} does not exist, and neither do training scans of "
        "a parametric head. Compute them with headfields.apps.tracking.prior.load.prior_landmarks, or with "
        "LandmarkPoints.near from "
        "points of the prior's mean head, save them, and pass the file as landmarks"
    )


@torch.no_grad()
def prior_landmarks(prior: Prior, scans: MeshScans, head: Any) -> LandmarkPoints:
    """The landmarks of a prior's canonical heads, from the neutral meshes that it was trained on.

    Args:
        prior: trained.
        scans: the training scans; further people are ignored.
        head: the parametric head whose topology the meshes begin with; its `landmarks` gives the 68 landmarks.

    Raises:
        ValueError: a person of the prior is not in the scans, or the head does not have 68 landmarks.
    """
    missing = [name for name in prior.people if name not in scans.people]
    if missing:
        raise ValueError(
            f"prior_landmarks: {len(missing)} people of the prior are not in the scans ({', '.join(missing[:4])}); "
            "pass the scans that it was trained on"
        )
    rows = torch.tensor([scans.people.index(name) for name in prior.people])
    neutral = scans.vertices[scans.neutral[rows]][:, : len(head.template_vertices)]
    points: Tensor = head.landmarks(neutral)
    if points.shape[1] != 68:
        raise ValueError(f"prior_landmarks: the head has {points.shape[1]} landmarks; expected the 68 of iBUG")
    anchors = anchors_of(prior.avatar)(prior.geometry)
    return LandmarkPoints.fitted(points, anchors, codes=prior.geometry)
