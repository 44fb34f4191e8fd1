"""What each model needs of a capture: what is missing, and what works less well without."""

from dataclasses import dataclass

import numpy as np

from headfields.data.capture import Capture

__all__ = ["Requirement", "capture_requirements"]

_FRAMES = 24
"""Number of frames whose mattes and landmarks are looked at."""


@dataclass(frozen=True)
class Requirement:
    """A model and a capture.

    Attributes:
        model: name of the preset, or of what else takes a capture.
        missing: what the model cannot do without, and the capture lacks; each with its remedy.
        weaker: what the capture lacks and the model does without, and what that costs.
    """

    model: str
    missing: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()

    def line(self) -> str:
        """In one line: `insta: ready`, or what is missing."""
        state = f"missing: {'; '.join(self.missing)}" if self.missing else "ready"
        return f"{self.model}: {state}" + (f" (without {'; '.join(self.weaker)})" if self.weaker else "")


def capture_requirements(capture: Capture) -> list[Requirement]:
    """What the presets, the tracker and other programs lack in a capture. Decodes up to 24 images.

    Args:
        capture: any; its template is built.

    Raises:
        CaptureError: a file cannot be read.

    >>> import headfields as hf
    >>> from headfields.apps.capturing.requirements import Requirement
    >>> Requirement("insta", weaker=("labels: no depth prior",)).line()
    'insta: ready (without labels: no depth prior)'
    """
    frames = np.unique(np.linspace(0, len(capture) - 1, min(_FRAMES, len(capture))).round().astype(int)).tolist()
    shared = () if len(capture.splits["train"]) else ("training frames (transforms_train.json)",)
    mattes = [capture.image(frame)[..., 3] for frame in frames]
    full = sum(bool((matte > 0.5).all()) for matte in mattes)
    matte = (f"mattes ({full} of {len(frames)} images looked at are all foreground): the background is learned as "
             "head",) if full else ()  # fmt: skip
    recording = capture.recording
    labels = (
        ()
        if recording.has_label
        else ("labels (seg_mask_path): the mouth weighs no more than the rest, and there is no depth prior",)
    )
    has_expression = bool(capture.expression_width)
    expression = () if has_expression else ("expression coefficients (exp_path)",)
    motion = () if has_expression or recording.pose_joints else ("expression coefficients or the joints' rotations",)
    regions = capture.template.regions
    mouth_missing = "mouth" not in regions or not bool(regions["mouth"].any())
    mouth = ("the mesh's region 'mouth' (labels, or regions= of load_capture)",) if mouth_missing else ()
    skinning = (
        () if recording.transform_joints or capture.skinning is not None else ("joint transforms: no inverse skinning",)
    )
    landmarks = [capture.landmarks(frame) is not None for frame in frames]
    points = () if any(landmarks) else ("68 landmarks (landmark_path)",)
    few = (
        (f"landmarks in {landmarks.count(False)} of {len(frames)} frames looked at",)
        if any(landmarks) and not all(landmarks)
        else ()
    )
    hair = () if recording.has_label else ("labels: hair and occluders are not masked out",)
    driver = () if has_expression or motion else ("expression coefficients: --set expression_width=0 'joints=(2,)'",)
    codes = () if has_expression else ("expression coefficients: no variant C",)
    return [
        Requirement("insta", (*shared, *mouth, *expression), (*matte, *labels)),
        Requirement("monoavatar", shared, (*matte, *codes)),
        Requirement("vp360", (*shared, *motion), (*matte, *driver, *labels, *skinning)),
        Requirement("gaussian_avatars", shared, matte),
        Requirement("flash_avatar", (*shared, *expression), matte),
        Requirement("rgb_avatar", (*shared, *motion), (*matte, *driver)),
        Requirement("mononphm (headfields track)", points, (*matte, *few, *hair)),
        Requirement("GaussianAvatars' code (headfields convert --to vhap)", (*shared, *_flame(capture)), matte),
    ]


def _flame(capture: Capture) -> tuple[str, ...]:
    """What keeps FLAME's parameters from being written."""
    count = len(capture.recording.canonical.vertices)
    if capture.recording.head_arguments is not None or count in (5023, 5143):
        return ()
    return (f"meshes of FLAME's topology (5,023 vertices; these have {count:,})",)
