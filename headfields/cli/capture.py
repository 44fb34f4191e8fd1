"""`headfields capture`: a capture that models train on, from a video or a folder of images."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import Count, OptionalFile, OptionalFloat, OptionalInt
from headfields.cli.errors import CommandError, Interrupted
from headfields.data.camera_axes import Convention

Source = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO_OR_FOLDER")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def capture(
    source: Source,
    head: Annotated[str, tyro.conf.arg(metavar="FLAME.npz|ICT.npz|procedural")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    landmarks: OptionalPath = None,
    mattes: OptionalPath = None,
    labels: OptionalPath = None,
    face_landmarker: OptionalFile = None,
    segmenter: OptionalFile = None,
    landmark_onnx: OptionalFile = None,
    matte_onnx: OptionalFile = None,
    every: Count = 1,
    fps: OptionalFloat = None,
    frames: OptionalInt = None,
    crop: Annotated[str, tyro.conf.arg(metavar="auto|none|X,Y,W,H")] = "auto",
    size: OptionalInt = 512,
    focal: OptionalFloat = None,
    cameras: OptionalFile = None,
    convention: Convention = "auto",
    motion: Literal["auto", "still", "moving"] = "auto",
    scale: OptionalFloat = None,
    quick: bool = False,
    stage1_only: bool = False,
    resume: bool = False,
) -> None:
    """Make a capture from a recording: `headfields capture VIDEO --head procedural --out DIR --landmarks FOLDER`.

    Fits a parametric head: identity and focal length from several frames together, then pose, jaw, eyes and expression
    of each frame to landmarks, outlines and colors, then all frames together, smoothly. DIR becomes a capture in
    INSTA's layout, with depth and labels of the mesh where the recording has none: `headfields train insta --capture
    DIR`. It also gets errors.json (how well each frame fits, and why frames failed), overlay.mp4, and in `tracking/`
    what a run needs to go on. Landmarks and mattes come from files of any detector, or from a model file of yours;
    nothing is downloaded. Frames that cannot be used are named and left out. Ctrl-C stops cleanly; the same command
    with --resume continues.

    With a calibration, SOURCE has a video or a folder of images for each of several synchronized cameras, named for it
    (NAME.mp4, cam_NAME.mp4, NAME/, also in images/); identity, pose and expression are fitted to all of them together.

    Of a folder with the transforms.json of nerfstudio, instant-ngp or a converter of COLMAP, the cameras are taken:
    lenses with their distortion, and, of a head that was held still, their places, fitted together as one moment.

    Args:
        source: A video, turned as its metadata says, or a folder of images, or of cameras.
        head: A model in FLAME's or SMPL-X's format with 68 landmarks, an npz of blendshapes, or "procedural".
        out: Folder of the capture.
        landmarks: Folder with one file a frame (.pts, .txt, .json, .npy, .npz), or one file of all frames: 68 points in
            iBUG's order or MediaPipe's 478. If not given, `landmarks/` in a SOURCE folder, if there is one. Of several
            cameras, a folder with one of these for each, named for it; or in each camera's own folder.
        mattes: Folder of images, one a frame; not needed for images with alpha. Or `mattes/` in SOURCE.
        labels: Folder of label images in INSTA's numbering. Or `labels/` or `seg_mask/` in SOURCE.
        face_landmarker: MediaPipe's face_landmarker.task (pip install headfields[capture]).
        segmenter: MediaPipe's selfie_multiclass_256x256.tflite or selfie_segmenter.tflite: mattes, and labels.
        landmark_onnx: A network of landmarks.
        matte_onnx: A network of mattes.
        every: Only every Nth frame.
        fps: Only so many frames per second of a video.
        frames: Only the first N of the frames that are left.
        crop: A square around the face of all frames, whole images, or a box in pixels.
        size: Largest side of the capture's images, pixels.
        focal: Focal length of the source in pixels, if known; fitted otherwise.
        cameras: Calibration of several cameras, as NeRSemble's camera_params.json: `world_2_cam`, a matrix (4, 4) by
            camera, and `intrinsics`, (3, 3) by camera or one for all. Or camera_params.json in SOURCE. Or
            transforms.json of images, as nerfstudio's; or the one in SOURCE, or in the folder above it.
        convention: Axes and direction of the matrices in transforms.json, if you know them; OpenGL's camera-to-world by
            definition.
        motion: Whether the head was held still while the camera moved, of images with transforms.json; auto looks at
            whether the rays of its landmarks meet.
        scale: Meters per unit of the places in transforms.json; by the head's size if not given.
        quick: Smaller images and fewer steps.
        stage1_only: Leave the pass over all frames together out.
        resume: Continue the run in DIR.
    """
    from dataclasses import replace

    from headfields.apps.capturing.prepare_cameras import camera_sources
    from headfields.apps.capturing.video import open_video
    from headfields.apps.tracking.failures import FrameFailure
    from headfields.apps.tracking.head.options import HeadTrackingOptions
    from headfields.apps.tracking.head.recording import begun_afresh, check_run, fitted_identity, opened_head, prepared
    from headfields.apps.tracking.head.rig import HeadModel
    from headfields.apps.tracking.head.tracker import HeadTracker
    from headfields.cli.run_tracker import check_frames, print_errors, run_tracker
    from headfields.data.calibration import CALIBRATIONS
    from headfields.data.labels import labels_of
    from headfields.runs.folder import RunFolder, RunWriteError
    from headfields.runs.lock import RunLockedError
    from headfields.synthetic import procedural_head

    check_frames(frames, every)
    if fps is not None and fps <= 0:
        raise CommandError(f"--fps is {fps}; expected a positive number")
    if focal is not None and focal <= 0:
        raise CommandError(f"--focal is {focal}; expected a positive number of pixels")
    box = _crop(crop)
    if cameras is None and source.is_dir():
        cameras = next((source / name for name in CALIBRATIONS if (source / name).is_file()), None)
    posed, cameras = _posed(source, cameras)
    further: dict[str, Any] = {"convention": convention, "motion": motion, "scale": scale}
    if posed is None and (
        given := [f"--{key} {value}" for key, value in further.items() if value not in ("auto", None)]
    ):
        raise CommandError(f"{given[0]} is for images with a transforms.json, and {source} has none; leave it out")
    if posed is not None and focal is not None:
        raise CommandError(f"--focal {focal} was given, and {posed[0]} has the focal lengths; leave one out")
    if posed is not None and fps is not None:
        raise CommandError("--fps is for videos; choose images with --every")
    if cameras is not None and focal is not None:
        raise CommandError(f"--focal {focal} and a calibration ({cameras}) were given; leave one out")
    options = HeadTrackingOptions.quick() if quick else HeadTrackingOptions()
    if stage1_only:
        options = replace(options, frame=replace(options.frame, joint_steps=0))
    video: Any
    files: Any
    if posed is not None:
        from headfields.apps.capturing.posed_images import read_posed_frames

        video, files = read_posed_frames(source, posed), _files(source, landmarks, mattes, labels)
        further |= {"every": every, "limit": frames}
    elif cameras is None:
        video, files = open_video(source, every, fps, frames), _files(source, landmarks, mattes, labels)
    else:
        video = camera_sources(source, cameras, every, fps, frames)
        files = {name: _camera_files(own.path, source, name, (landmarks, mattes, labels))
                 for name, own in video.items()}  # fmt: skip
    detectors = _detectors(face_landmarker, segmenter, landmark_onnx, matte_onnx)
    model = HeadModel.of(procedural_head() if head == "procedural" else opened_head(head), options.identities)
    free = labels_of("hair", "cloth", "ears") if model.one_sided else labels_of("hair", "cloth", "ears", "neck")
    begun = {"source": source.resolve(), "head": head, "every": every, "fps": fps, "frames": frames, "crop": crop,
             "size": size, "focal": focal, "quick": quick,
             "cameras": None if cameras is None else cameras.resolve()}  # fmt: skip
    if posed is not None:
        begun |= {"transforms": [path.resolve() for path in posed], **further}
    run = out / "tracking" / "run"
    try:
        RunFolder(out).check_writable()
        with begun_afresh(out):
            check_run(out, begun, resume)
            recording = prepared(video, out, files, detectors, box, size, focal, calibration=cameras, posed=further)
        identity = None if recording is None else fitted_identity(model, recording, out, options, free)
    except FrameFailure as failure:
        raise CommandError(f"{source}: {failure}") from failure
    except (FileExistsError, RunLockedError, RunWriteError) as error:
        raise CommandError(str(error)) from error
    if recording is None or identity is None:
        raise Interrupted("interrupted; the same command with --resume continues")
    tracker = HeadTracker(model, identity, recording, run, options, free, None, out)
    tracked = run_tracker(tracker, run, len(recording), (run / "config.json").is_file())
    for line in (*recording.report, *identity.report):
        print(line)
    print_errors(tracked, len(recording))
    print(f"next: headfields train insta --capture {out} --out AVATAR --minutes 10")


def _posed(source: Path, cameras: Path | None) -> tuple[list[Path] | None, Path | None]:
    """The transforms files of plain images, and the calibration of several cameras; at most one of the two."""
    from headfields.apps.capturing.posed_images import posed_transforms

    if cameras is not None and cameras.name.startswith("transforms"):
        if not source.is_dir():
            raise CommandError(
                f"--cameras {cameras} has the cameras of images, and {source} is a video; name the folder of the "
                "images that the cameras were found for"
            )
        return [cameras], None
    if cameras is not None or not source.is_dir():
        return None, cameras
    return posed_transforms(source) or None, None


def _crop(crop: str) -> Any:
    if crop in ("auto", "none"):
        return crop
    try:
        left, top, width, height = (int(part) for part in crop.split(","))
    except ValueError:
        raise CommandError(f"--crop is {crop!r}; expected auto, none, or left,top,width,height in pixels") from None
    return left, top, width, height


def _files(source: Path, landmarks: Path | None, mattes: Path | None, labels: Path | None) -> Any:
    """Files of detections as the command line names them; folders beside a source's images count too."""
    from headfields.apps.capturing.detectors.files import DetectionFiles

    def beside(path: Path | None, *names: str) -> Path | None:
        return path or next((source / name for name in names if (source / name).is_dir()), None)

    return DetectionFiles(
        beside(landmarks, "landmarks"), beside(mattes, "mattes", "masks"), beside(labels, "labels", "seg_mask")
    )


def _camera_files(video: Path, source: Path, name: str, given: tuple[Path | None, ...]) -> Any:
    """Files of detections of a camera: in the given folders by its name, else beside its images."""
    own: list[Path | None] = []
    for path, kind in zip(given, ("landmarks", "mattes", "labels"), strict=True):
        folders = [path] if path is not None else [source / kind]
        stems = [folder / stem for folder in folders for stem in (name, f"cam_{name}")]
        every = [place for stem in stems for place in
                 (stem, *(stem.with_name(stem.name + end) for end in (".npz", ".npy", ".json")))]  # fmt: skip
        places = [place for place in every if place.exists()]
        if path is not None and not places:
            raise CommandError(f"--{kind} {path} has nothing named {name}; expected a folder or file for each camera")
        own.append(places[0] if places else None)
    folder = video if video.is_dir() else video.parent / video.stem
    return _files(folder.parent if folder.name in ("images", "frames", "source", "rgb") else folder, *own)


def _detectors(
    face_landmarker: Path | None, segmenter: Path | None, landmark_onnx: Path | None, matte_onnx: Path | None
) -> list[Any]:
    """Detectors as the command line names them."""
    from headfields.apps.capturing.detectors.mediapipe import MediaPipeFaces, MediaPipeSegmenter
    from headfields.apps.capturing.detectors.onnx import OnnxDetector

    detectors: list[Any] = []
    if face_landmarker is not None:
        detectors.append(MediaPipeFaces(face_landmarker))
    if landmark_onnx is not None:
        detectors.append(OnnxDetector(landmark_onnx, "landmarks"))
    if matte_onnx is not None:
        detectors.append(OnnxDetector(matte_onnx, "matte"))
    if segmenter is not None:
        detectors.append(MediaPipeSegmenter(segmenter))
    return detectors
