"""From a trained prior on disk to what tracking needs of it: where its landmarks are."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headfields.heads import BlendshapeHead
from headfields.priors import Prior, load_prior
from headfields.priors.scans import MeshScans, load_scans
from headfields.priors.terms import anchors_of
from headfields.synthetic.head.model import procedural_head
from headfields.tracking.prior.head import TrackingPrior
from headfields.tracking.prior.landmarks import LandmarkPoints

__all__ = ["open_prior", "prior_landmarks"]


def open_prior(path: str | Path, landmarks: str | Path | None = None, hair: bool | None = None) -> TrackingPrior:
    """A prior with its landmarks, for `Tracker`.

    Landmarks come from a file that `LandmarkPoints.save` wrote: the one that is given, else landmarks.npz beside the
    prior. If there is none, and `headfields train-prior` drew the prior's scans from a parametric head, they are found
    from those scans (in `scans/` beside the prior) and kept in landmarks.npz.

    Args:
        path: the file of the prior, or the folder of a run of `headfields train-prior`.
        landmarks: a file of landmarks.
        hair: whether the prior's heads have hair; if None, unless its scans were drawn from a parametric head.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file holds something else, or the prior's landmarks are not known.
    """
    path = Path(path)
    prior = load_prior(path)
    source = prior.about.get("trained", {}).get("scans", {})
    drawn = "head" in source or "blendshapes" in source
    hair = not drawn if hair is None else hair
    folder = path if path.is_dir() else path.parent
    kept = folder / "landmarks.npz"
    if landmarks is not None:
        return TrackingPrior.of(prior, LandmarkPoints.load(landmarks).kept(), hair)
    if kept.is_file():
        return TrackingPrior.of(prior, LandmarkPoints.load(kept).kept(), hair)
    if drawn and (folder / "scans" / "scans.json").is_file():
        head: Any = BlendshapeHead.from_file(source["blendshapes"]) if "blendshapes" in source else procedural_head()
        found = prior_landmarks(prior, load_scans(folder / "scans"), head)
        with contextlib.suppress(OSError):  # a folder that is read alone; they are found anew the next time
            found.save(kept)
        return TrackingPrior.of(prior, found.kept(), hair)
    raise ValueError(
        f"open_prior: where landmarks are on the prior's heads is not known: {kept} is not there, and neither are the "
        "scans of a parametric head that it was trained on. Find them with headfields.tracking.prior_landmarks, or "
        "LandmarkPoints.near from points of its mean head, save them, and name the file"
    )


@torch.no_grad()
def prior_landmarks(prior: Prior, scans: MeshScans, head: Any) -> LandmarkPoints:
    """The landmarks of a prior's canonical heads, from the neutral meshes that it was trained on.

    Args:
        prior: trained.
        scans: what it was trained on; further people are left out.
        head: the parametric head whose topology the meshes begin with: its `landmarks` says where 68 landmarks are.

    Raises:
        ValueError: a person of the prior is not in the scans, or the head has not 68 landmarks.
    """
    missing = [name for name in prior.people if name not in scans.people]
    if missing:
        raise ValueError(
            f"prior_landmarks: {len(missing)} people of the prior are not in the scans ({', '.join(missing[:4])}); "
            "give the scans that it was trained on"
        )
    rows = torch.tensor([scans.people.index(name) for name in prior.people])
    neutral = scans.vertices[scans.neutral[rows]][:, : len(head.template_vertices)]
    points: Tensor = head.landmarks(neutral)
    if points.shape[1] != 68:
        raise ValueError(f"prior_landmarks: the head has {points.shape[1]} landmarks; expected the 68 of iBUG")
    anchors = anchors_of(prior.avatar)(prior.geometry)
    return LandmarkPoints.fitted(points, anchors, codes=prior.geometry)
