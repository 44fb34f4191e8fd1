"""Synthetic training sets: random identities, expressions and colors of a parametric head."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headfields.apps.priors.scans.meshes import FACE, INNER, REAR, STATIC, MeshScans, face_kinds
from headfields.apps.priors.scans.store import load_scans, made_from, save_scans
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.flame.model import FlameHead
from headfields.heads.mouth.inner import InnerMouth, inner_mouth
from headfields.heads.skinned import SkinnedHead
from headfields.synthetic.head.texture import procedural_head_texture
from headfields.synthetic.scans.colors import Complexion, complexion, vertex_colors
from headfields.synthetic.scans.sampler import HeadSampler

__all__ = ["generate_scans"]

_VERSION = 3  # raised when the same arguments give another set
_CAVITY, _TEETH = (0.36, 0.13, 0.13), (0.88, 0.84, 0.76)
_OPEN = 0.8
_MOUTH, _LIDS = (
    ("mouth_open", "jawOpen"),
    (("blink_left", "eyeBlink_L", "eyeBlinkLeft"), ("blink_right", "eyeBlink_R", "eyeBlinkRight")),
)
"""What opens the mouth, and closes the left and the right eye, in the procedural head and in ARKit's names."""


def generate_scans(
    head: SkinnedHead | BlendshapeHead,
    people: int = 40,
    expressions: int = 12,
    seed: int = 0,
    out: str | Path | None = None,
    mouth: bool = True,
    progress: bool = True,
) -> MeshScans:
    """Generates random people and expressions as colored meshes of one topology; deterministic in its arguments.

    Each person's first mesh is neutral, the second has the mouth wide open, the third both eyes shut and the fourth one
    of them, where the head has such expressions; `headfields.synthetic.scans.sampler.HeadSampler` samples the others.
    Among these, closed eyes are so rare that a prior leaves lids out. Person p does not depend on the numbers of
    people and expressions.

    Args:
        head: the parametric head: `hf.synthetic.procedural_head()`, a FLAME, or a `BlendshapeHead` such as
            ICT-FaceKit's.
        people: P, number of people.
        expressions: E, number of meshes of each person, the neutral one included.
        seed: seed of the set.
        out: a folder to save the set in (`save_scans`); a set of the same arguments there is loaded. None: not saved.
        mouth: whether to add an inside (`inner_mouth`) to a mouth that is open between the lips.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: `out` has other contents.
    """
    if people < 1 or expressions < 1:
        raise ValueError(f"generate_scans: people is {people} and expressions {expressions}; both must be at least 1")
    record = {
        "version": _VERSION, "people": people, "expressions": expressions, "seed": seed, "mouth": mouth,
        "head": _fingerprint(head),
    }  # fmt: skip
    if out is not None and made_from(out) == record:
        return load_scans(out)
    inside = _inside(head) if mouth else None
    whole = head if inside is None else inside.extend_head(head)
    sampler = HeadSampler(whole)
    meshes, colors, samples = [], [], {"identity": [], "expression": [], "gaze": []}  # type: ignore[var-annotated]
    for p in tqdm(range(people), desc="people", unit="person", disable=not progress):
        random = np.random.default_rng([seed, p])
        identity, tones = sampler.identity(random), complexion(random)
        weights = [torch.zeros(len(whole.expression_basis))]
        gazes = [torch.zeros(2)]
        for e in range(1, expressions):
            random = np.random.default_rng([seed, p, e])
            posed = _posed_expression(whole, p, e)
            weights.append(sampler.expression(random) if posed is None else posed)
            gazes.append(sampler.gaze(random))
        expression, gaze = torch.stack(weights), torch.stack(gazes)
        with torch.no_grad():
            meshes.append(sampler.vertices(identity.expand(expressions, -1), expression, gaze))
        colors.append(_colors(whole, inside, meshes[-1][0], tones, seed=1000 * seed + p))
        samples["identity"].append(identity.expand(expressions, -1))
        samples["expression"].append(expression)
        samples["gaze"].append(gaze)
    vertices = torch.cat(meshes)
    person = torch.arange(people).repeat_interleave(expressions)
    scans = MeshScans(
        vertices, whole.faces, person, torch.stack(colors),
        kind=_kinds(whole, inside, vertices, person, torch.arange(people) * expressions),
        landmark_vertices=_landmark_vertices(head),
    )  # fmt: skip
    if out is not None:
        coefficients = {name: torch.cat(values) for name, values in samples.items()}
        return load_scans(save_scans(scans, out, record, coefficients))  # as a resumed run reads them
    return scans


def _inside(head: SkinnedHead | BlendshapeHead) -> InnerMouth | None:
    """The inside of the mouth, or None for a head that has one already or whose lips are sealed."""
    weights = getattr(head, "weights", None)
    rigid = {} if weights is None else {"skull": weights[:, 1], "jaw": weights[:, 2]}
    try:
        return inner_mouth(head.template_vertices, head.faces, **rigid)
    except ValueError:
        return None


def _posed_expression(head: SkinnedHead | BlendshapeHead, person: int, number: int) -> Tensor | None:
    """Coefficients of the meshes that every person has: mouth open, eyes shut, one eye shut; None for another number,
    or where the head does not name what closes its eyes."""
    names = tuple(getattr(head, "expression_names", ()))
    out = torch.zeros(len(head.expression_basis))
    shown = {1: _MOUTH, 2: sum(_LIDS, ()), 3: _LIDS[person % 2]}.get(number, ())
    for name in shown:
        if name in names:
            out[names.index(name)] = _OPEN if number == 1 else 1.0
    if number == 1 and not names and len(out):
        out[0] = _OPEN
    return out if number == 1 or bool(out.any()) else None


def _kinds(
    head: SkinnedHead | BlendshapeHead, inside: InnerMouth | None, vertices: Tensor, person: Tensor, neutral: Tensor
) -> Tensor:
    """(F,) kinds of faces: `face_kinds`, the head's own region "face", and the inside of the mouth."""
    kind = face_kinds(vertices, head.faces, person, neutral)
    regions = getattr(head, "regions", {})
    if "face" in regions:
        own = len(regions["face"])
        kind[:own] = torch.where(regions["face"], FACE, torch.where(kind[:own] == FACE, STATIC, kind[:own]))
    if inside is not None:
        kind[inside.face_count :] = INNER
    assert REAR in kind
    return kind


def _colors(
    head: SkinnedHead | BlendshapeHead, inside: InnerMouth | None, neutral: Tensor, tones: Complexion, seed: int
) -> Float[Tensor, "v 3"]:
    own = len(neutral) if inside is None else inside.vertex_count
    faces = head.faces if inside is None else head.faces[: inside.face_count]
    if isinstance(head, FlameHead) and head.uv is not None and "skull_back" in head.shape_names:
        rgb = _textured(head, own, faces, tones, seed)
    else:
        rgb = vertex_colors(neutral[:own], faces, _landmarks(head, neutral), tones)
    if inside is None:
        return rgb
    added = torch.tensor(_CAVITY).repeat(len(neutral) - own, 1)
    teeth = head.faces[inside.face_count :][inside.part > 0]
    added[(teeth.unique() - own).clamp_min(0)] = torch.tensor(_TEETH)
    return torch.cat([rgb, added])


def _textured(head: FlameHead, own: int, faces: Tensor, tones: Complexion, seed: int) -> Tensor:
    """(V, 3) the procedural head's texture at the vertices, with hair on the scalp."""
    skin = {name: tones[name] for name in ("skin", "lips", "iris", "brows")}
    image = procedural_head_texture(256, **skin, stubble=0.05 * (seed % 4), seed=seed)
    assert head.uv is not None and head.uv_faces is not None
    place = torch.zeros(own, 2)
    place[faces.reshape(-1)] = head.uv[head.uv_faces[: len(faces)].reshape(-1)]
    column = (place[:, 0] * 256).long().clamp(0, 255)
    row = ((1 - place[:, 1]) * 256).long().clamp(0, 255)
    rgb = torch.from_numpy(image)[row, column].float()
    hair = torch.zeros(own).index_add_(
        0, faces.reshape(-1), head.regions["scalp"][: len(faces)].float().repeat_interleave(3)
    )
    share = hair / torch.bincount(faces.reshape(-1), minlength=own).clamp_min(1)
    return rgb + share[:, None] * (torch.tensor(tones["hair"]) * (0.6 + 0.4 * rgb.mean(1, keepdim=True)) - rgb)


def _landmarks(head: SkinnedHead | BlendshapeHead, neutral: Tensor) -> Tensor | None:
    """(68, 3) landmarks, or None unless the head has 68 that do not depend on the view."""
    try:
        landmarks = head.landmarks(neutral[None])[0]
    except (ValueError, TypeError):
        return None
    return landmarks if len(landmarks) == 68 else None


def _landmark_vertices(head: SkinnedHead | BlendshapeHead) -> Tensor | None:
    """(68,) vertices nearest to the head's landmarks; -1 for the contour of a head that has the other 51 only."""
    own = head.template_vertices
    rotation = () if getattr(head, "contour", None) is None else (torch.eye(3)[None],)
    try:
        landmarks = head.landmarks(own[None], *rotation)[0]
    except ValueError:  # the head has none
        return None
    if len(landmarks) not in (51, 68):
        return None
    vertices = torch.full((68,), -1)
    vertices[68 - len(landmarks) :] = torch.cdist(landmarks, own).argmin(dim=1)
    return vertices


def _fingerprint(head: SkinnedHead | BlendshapeHead) -> str:
    """A short hash of the head's class and buffers."""
    digest = hashlib.sha256(type(head).__name__.encode())
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
