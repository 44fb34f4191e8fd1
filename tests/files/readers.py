"""Every reader of files in the library: how to make a small valid file for it, and how to read it."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        make: writes valid files into a folder.
        read: reads them from there.
        covers: functions of the library, without the leading `headfields.`, that this tries.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    covers: tuple[str, ...]


def dense(arrays, path):
    from headfields.files.unpickler import to_array

    for name, value in arrays.items():
        to_array(value, f"{path}: {name}")


def arrays_of(path):
    from headfields.files.arrays import load_arrays
    from headfields.files.reading import reading

    with reading(path, "a file of arrays"):
        dense(load_arrays(path), path)


def content():
    import scipy.sparse

    return {
        "a": np.arange(6.0).reshape(2, 3), "b": np.arange(4, dtype=np.int32), "s": scipy.sparse.csr_matrix(np.eye(3)),
        "c": scipy.sparse.coo_matrix(np.eye(3)), "t": [(1, 2.5), [3, 4]], "f": np.asfortranarray(np.eye(2)),
    }  # fmt: skip


def mesh():
    from headfields.mesh import Mesh

    vertices = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(vertices, faces, normals=torch.nn.functional.normalize(vertices - 0.02, dim=1))


def textured(folder):
    from headfields.mesh import save_mesh

    uv = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    save_mesh(folder / "mesh.obj", mesh().replace(uv=uv, uv_faces=mesh().faces, texture=torch.rand(4, 4, 3)))


def saved_mesh(ending):
    def make(folder):
        from headfields.mesh import save_mesh

        save_mesh(folder / f"mesh{ending}", mesh())

    return make


def load_mesh(ending):
    def read(folder):
        import headfields as hf

        return hf.mesh.load_mesh(folder / f"mesh{ending}")

    return read


def exported(ending):
    def make(folder):
        import trimesh

        shape = trimesh.Trimesh(mesh().vertices.numpy(), mesh().faces.numpy(), process=False)
        (folder / f"mesh{ending}").write_bytes(as_bytes(shape.export(file_type=ending[1:])))

    return make


def as_bytes(data):
    return data.encode() if isinstance(data, str) else data


def gltf(folder):
    import trimesh

    shape = trimesh.Trimesh(mesh().vertices.numpy(), mesh().faces.numpy(), process=False)
    for name, data in shape.export(file_type="gltf").items():
        (folder / ("mesh.gltf" if name == "model.gltf" else name)).write_bytes(data)


def ascii_ply(folder):
    import trimesh

    shape = trimesh.Trimesh(mesh().vertices.numpy(), mesh().faces.numpy(), process=False)
    (folder / "mesh.ply").write_bytes(as_bytes(shape.export(file_type="ply", encoding="ascii")))


def skinned(joints, extra=None):
    """Arrays of a model of eight vertices in FLAME's or SMPL-X's format."""
    random = np.random.default_rng(0)
    points = random.uniform(-0.1, 0.1, (8, 3))
    weights = random.uniform(0.1, 1, (8, joints))
    regressor = random.uniform(0.1, 1, (joints, 8))
    parents = np.array([-1, *range(joints - 1)])
    return {
        "v_template": points, "f": np.array([[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]]),
        "shapedirs": random.normal(size=(8, 3, 4)) * 1e-3,
        "posedirs": random.normal(size=(8, 3, 9 * (joints - 1))) * 1e-3,
        "J_regressor": regressor / regressor.sum(1, keepdims=True), "kintree_table": np.array([parents, range(joints)]),
        "weights": weights / weights.sum(1, keepdims=True), "expression_count": np.array(2), **(extra or {}),
    }  # fmt: skip


def masks_of(folder):
    (folder / "masks.pkl").write_bytes(pickle.dumps({"face": np.array([0, 1, 2]), "neck": np.array([3, 4])}, 2))


def flame_pickle(folder):
    import scipy.sparse

    arrays = skinned(5)
    arrays["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
    (folder / "model.pkl").write_bytes(pickle.dumps(arrays, 2))
    masks_of(folder)


def flame_of(folder):
    import headfields as hf

    return hf.heads.FlameHead.from_file(folder / "model.pkl", masks=folder / "masks.pkl")


def embedding_file(folder):
    table = {"lmk_face_idx": np.array([0, 1]), "lmk_b_coords": np.full((2, 3), 1 / 3)}
    (folder / "marks.pkl").write_bytes(pickle.dumps(table, 2))


def contour_file(folder):
    table = {"lmk_face_idx": np.zeros((3, 2), int), "lmk_b_coords": np.full((3, 2, 3), 1 / 3)}
    np.save(folder / "contour.npy", np.array(table, dtype=object))


def template_uv(folder):
    (folder / "t.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nvt 1 1\nf 1/1 2/2 3/3\nf 2/2 4/4 3/3\n"
    )


def uv_of(folder):
    from headfields.heads.flame.assets import read_template_uv

    return read_template_uv(folder / "t.obj", np.array([[0, 1, 2], [1, 3, 2]]), 4)


def blendshapes(folder):
    np.savez(
        folder / "head.npz", template=mesh().vertices.numpy(), faces=mesh().faces.numpy(),
        expression=np.full((2, 4, 3), 1e-3), expression_names=np.array(["a", "b"]), landmarks=np.array([0, 1]),
    )  # fmt: skip


def landmark_json(folder):
    table = {"nose_tip": [0, 0, 0.1], "36": [-0.04, 0.03, 0.06]}
    (folder / "scan.json").write_text(
        json.dumps({"landmarks": table, "lips": [[0, 0, 0], [1, 0, 0], [2, 0, 0]], "eyes": "closed"})
    )


def metrical(folder):
    from tests.data.formats.test_metrical_tracker import save

    save(folder / "checkpoint")


def metrical_old(folder):
    from tests.data.formats.test_metrical_tracker import save

    save(folder, zipped=False)


def capture(folder):
    from headfields.data.formats.insta_writer import write_insta
    from tests.data.tiny import blob, tiny_frames

    write_insta(folder / "capture", tiny_frames(), *blob())


def capture_of(folder):
    from headfields.data import load_capture

    load_capture(folder / "capture", mouth="none").validate()


def posed(folder):
    from tests.data.tiny import tiny_frames

    frames = []
    for index, entry in enumerate(tiny_frames(2, optional=False)):
        Image.fromarray(entry.image).save(folder / f"{index}.png")
        pose = torch.linalg.inv(entry.camera.world_to_camera).tolist()
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose, "fl_x": 120.0})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))


def posed_of(folder):
    from headfields.apps.texturing.images import read_posed_images
    from tests.data.tiny import blob

    return read_posed_images(folder, *blob(), convention="opencv")


def scans_of(folder):
    from headfields.apps.priors.scans import load_scans
    from headfields.apps.priors.scans.store import made_from

    made_from(folder / "scans")
    return load_scans(folder / "scans")


def nphm(folder):
    from headfields.mesh import save_mesh

    clouds = folder / "surface_pointclouds" / "017"
    clouds.mkdir(parents=True)
    for kind in ("face", "def_region", "non_face", "off_surface"):
        np.save(clouds / f"0_0_{kind}.npy", np.ones((5, 9), np.float32))
    scan = folder / "scans" / "017" / "000"
    scan.mkdir(parents=True)
    save_mesh(scan / "registration.ply", mesh())
    for name, value in (("s", np.array(2.0)), ("R", np.eye(3)), ("t", np.zeros(3))):
        np.save(scan / f"{name}.npy", value)


def nphm_of(folder):
    from headfields.apps.priors.scans.batch import PointCounts
    from headfields.apps.priors.scans.nphm import nphm_to_raw, read_nphm

    nphm_to_raw(torch.zeros(1, 3), folder / "scans" / "017" / "000")
    scans = read_nphm(folder, data=folder / "scans", anchor_vertices=[1])
    counts = PointCounts(face=3, static=2, back=2, near=2, far=2, correspondences=2)
    scans.sample(torch.tensor([0]), counts, 0)


def mononphm(folder):
    place = folder / "00000"
    place.mkdir()
    arrays = {
        "z_geo": np.ones((1, 4)), "z_app": np.ones((1, 4)), "z_exp": np.ones((1, 4)), "rot": np.eye(3)[None],
        "trans": np.zeros((1, 3)), "scale": np.ones((1, 1)), "colorA": np.eye(3), "colorb": np.zeros(3),
        "sh_coeffs": np.ones((9, 3)),
    }  # fmt: skip
    for name, value in arrays.items():
        np.save(place / f"{name}.npy", value.astype(np.float32))


def mononphm_input(folder):
    from tests.data.formats.mononphm_folder import write_folder

    write_folder(folder / "someone", size=(24, 32), text=True)
    write_folder(folder / "other", size=(24, 32), kpt=True)


def mononphm_input_of(folder):
    from headfields.data import load_mononphm

    for name in ("someone", "other"):
        load_mononphm(folder / name).validate()


def points(folder):
    from headfields.apps.tracking.prior.landmarks import LandmarkPoints

    LandmarkPoints(torch.rand(2, 3), torch.rand(1, 3), torch.rand(3, 6), torch.arange(2)).save(folder / "points.npz")


def camera():
    from headfields.records import Camera

    return Camera(torch.eye(4), torch.tensor([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]]), (8, 8))


def rig_fit(folder):
    from headfields.apps.tracking.rig.body import BodyPose
    from headfields.apps.tracking.rig.fit import RigFit
    from headfields.apps.tracking.rig.light import LightSums

    pose = BodyPose(torch.eye(4), torch.zeros(2, 3), torch.zeros(3))
    RigFit(3, pose, LightSums.empty(), camera(), errors={"psnr": 20.0}).save(folder / "fit.safetensors")


def prior_fit(folder):
    from headfields.apps.tracking.prior.fit import PriorFit

    codes = {name: torch.zeros(2) for name in ("geometry", "appearance", "expression_code")}
    PriorFit(
        3, codes, codes, torch.zeros(3), torch.zeros(3), camera(), torch.eye(4), torch.zeros(9, 3), torch.eye(3),
        torch.zeros(3), errors={"psnr": 20.0},
    ).save(folder / "fit.safetensors")  # fmt: skip


def fitted_sequence(folder):
    from headfields.apps.priors.codes import PriorCodes
    from headfields.apps.priors.sequence import FittedSequence

    codes = PriorCodes(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2, 5))
    turns = torch.eye(3).repeat(2, 1, 1)
    FittedSequence(("0", "1"), codes, turns, torch.zeros(2, 3), torch.ones(2)).save(folder / "sequence.safetensors")


def read_tensors(path):
    from headfields.apps.tracking.file_formats import TRACKED_FRAME
    from headfields.files.safetensors import read_safetensors

    return read_safetensors(path, TRACKED_FRAME)


def model():
    module = torch.nn.Linear(3, 2)
    return module, torch.optim.Adam(module.parameters())


def checkpoint(folder):
    from headfields.runs import checkpoint as runs
    from headfields.runs.ema import ExponentialMovingAverage
    from headfields.runs.progress import Progress
    from headfields.runs.randomness import RandomStream

    module, optimizer = model()
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    states = RandomStream(0, torch.device("cpu")).states()
    progress = Progress(1, 2.0, 20.0, {"rays": 3})
    runs.save(folder / "last.safetensors", module, optimizer, ExponentialMovingAverage(module), states, progress)


def checkpoint_of(folder):
    from headfields.runs import checkpoint as runs
    from headfields.runs.ema import ExponentialMovingAverage
    from headfields.runs.randomness import RandomStream

    module, optimizer = model()
    path = folder / "last.safetensors"
    _, states = runs.load(path, module, optimizer, ExponentialMovingAverage(module))
    RandomStream(0, torch.device("cpu")).load(states)
    optimizer.zero_grad()
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    runs.load_weights(path, module)


def run_of(folder):
    from headfields.runs.folder import RunFolder

    run = RunFolder(folder)
    run.config()
    run.read_log()
    run.rewind_log(1)


def tracking_run(folder):
    from headfields.apps.tracking.folder import TrackingFolder

    TrackingFolder(folder).open({"capture": "x", "options": {"color": 1.0}, "frames": [1, 2]}, False)


def tracking_run_of(folder):
    from headfields.apps.tracking.folder import TrackingFolder

    TrackingFolder(folder).open({"capture": "x", "options": {"color": 1.0}, "frames": [1, 2]}, True)


def sample(name, *arguments):
    """Writes it as `tests/files/samples.py` does; imported when it is called, as readers are in their own process."""

    def make(folder):
        from tests.files import samples

        getattr(samples, name)(*arguments, folder)

    return make


def avatar_of(name):
    def read(folder):
        from headfields.avatar.avatar import Avatar

        return Avatar.load(folder / name)

    return read


def prior_of(folder):
    from headfields.apps.priors import load_prior

    return load_prior(folder / "prior.safetensors")


def picture(kind):
    def make(folder):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 255, (6, 5, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"picture.{kind}")

    return make


def picture_of(kind):
    def read(folder):
        from headfields.data.image_files import decode_image, image_header

        path = folder / f"picture.{kind}"
        header = image_header(path, "frame 1", "file_path", "rgba")
        decode_image(path, "frame 1", "file_path", "rgba", header.size)

    return read


def numbers_of(folder):
    from headfields.data.image_files import read_numbers

    return read_numbers(folder / "numbers.txt", "frame 1", "exp_path")


def call(module, name, file, *arguments):
    """Reads `file` in the folder with a function, or a method of a class, of the library."""

    def read(folder):
        import importlib

        function = importlib.import_module(f"headfields.{module}")
        for part in name.split("."):
            function = getattr(function, part)
        return function(folder / file, *arguments)

    return read


def npz(file, **arrays):
    return lambda folder: np.savez(folder / file, **arrays)


def object_npz(folder):
    import scipy.sparse

    np.savez(folder / "a.npz", a=np.array(scipy.sparse.csc_matrix(np.eye(3)), object))


def pickled(protocol):
    return lambda folder: (folder / "a.pkl").write_bytes(pickle.dumps(content(), protocol))


def saved(zipped):
    tensors = {"x": torch.arange(6.0), "y": torch.arange(4).view(2, 2).T, "z": torch.zeros(2, dtype=torch.bfloat16)}
    return lambda folder: torch.save(tensors, folder / "a.pt", _use_new_zipfile_serialization=zipped)


ARRAYS = (
    "files.arrays.load_arrays",
    "files.arrays.read_npy",
    "files.unpickler.load_pickle",
    "files.unpickler.load_torch",
)
HEADS = "heads.flame"


def splats(folder):
    from headfields.data import save_gaussians
    from headfields.networks import Gaussians

    gaussians = Gaussians(3, degree=1)
    gaussians.face.fill_(2)
    save_gaussians(folder / "head.ply", gaussians)


def flame_parameters(folder):
    from headfields.data.formats.gaussian_ply import save_flame_parameters

    widths = {"translation": 3, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "expr": 4}
    made = {name: torch.ones(2, width) for name, width in widths.items()}
    save_flame_parameters(folder, {**made, "shape": torch.ones(5), "static_offset": torch.ones(3, 3)})


def calibration(folder):
    view, lens = np.eye(4), np.array([[300.0, 0, 128], [0, 300, 128], [0, 0, 1]])
    table = {"world_2_cam": {name: view.tolist() for name in ("left", "right")}, "intrinsics": lens.tolist()}
    (folder / "camera_params.json").write_text(json.dumps(table))


def read_calibration(folder):
    from headfields.data.calibration import read_calibration

    return read_calibration(folder / "camera_params.json", {"left": (256, 256), "right": (256, 256)})


def face_motion(folder):
    import torch

    from headfields.apps.faces.lines import lines_of_motion
    from headfields.apps.faces.live_link_face import csv_of_motion
    from headfields.apps.faces.motion import FaceMotion

    turns = torch.full((2, 4, 3), 0.1)
    motion = FaceMotion(torch.arange(2).double(), torch.full((2, 52), 0.5), turns[:, 0], turns[:, 1:3], turns[:, 3])
    (folder / "take.csv").write_text(csv_of_motion(motion))
    (folder / "take.jsonl").write_text(lines_of_motion(motion))


def read_face_motion(folder):
    from headfields.apps.faces.files import read_face_motion

    return read_face_motion(folder / "take.csv"), read_face_motion(folder / "take.jsonl")


READERS: dict[str, Reader] = {
    "motion of a face": Reader(face_motion, read_face_motion, ("apps.faces.files.read_face_motion",)),
    "calibration": Reader(calibration, read_calibration, ("data.calibration.read_calibration",)),
    "gaussians": Reader(
        splats,
        call("data.formats.gaussian_ply", "load_gaussians", "head.ply"),
        ("data.formats.gaussian_ply.load_gaussians",),
    ),
    "flame parameters": Reader(
        flame_parameters,
        call("data.formats.gaussian_ply", "load_flame_parameters", "flame_param.npz"),
        ("data.formats.gaussian_ply.load_flame_parameters",),
    ),
    "npz": Reader(npz("a.npz", a=np.eye(3), b=np.array(["x", "yy"])), lambda f: arrays_of(f / "a.npz"), ARRAYS),
    "npz of objects": Reader(object_npz, lambda f: arrays_of(f / "a.npz"), ARRAYS),
    "numbers": Reader(
        npz("a.npz", a=np.eye(3)), call("files.arrays", "load_numbers", "a.npz"), ("files.arrays.load_numbers",)
    ),
    "npy": Reader(
        lambda f: np.save(f / "a.npy", np.asfortranarray(np.eye(3))),
        call("files.arrays", "load_npy", "a.npy"),
        ("files.arrays.load_npy",),
    ),
    "pickle of Python 2": Reader(pickled(0), lambda f: arrays_of(f / "a.pkl"), ARRAYS),
    "pickle 2": Reader(pickled(2), lambda f: arrays_of(f / "a.pkl"), ARRAYS),
    "pickle 5": Reader(pickled(5), lambda f: arrays_of(f / "a.pkl"), ARRAYS),
    "torch": Reader(saved(True), lambda f: arrays_of(f / "a.pt"), ARRAYS),
    "torch before zip": Reader(saved(False), lambda f: arrays_of(f / "a.pt"), ARRAYS),
    "json": Reader(
        lambda f: (f / "a.json").write_text(json.dumps({"a": [1, 2.5, {"b": None}]})),
        call("files.reading", "read_json", "a.json"),
        ("files.reading.read_json",),
    ),
    "safetensors": Reader(
        prior_fit,
        lambda f: read_tensors(f / "fit.safetensors"),
        ("files.safetensors.read_safetensors",),
    ),
    "obj": Reader(
        textured, load_mesh(".obj"), ("mesh.files.load_mesh", "mesh.obj.read_obj", "mesh.obj.ObjReader.read")
    ),
    "ply": Reader(saved_mesh(".ply"), load_mesh(".ply"), ("mesh.files.load_mesh",)),
    "ascii ply": Reader(ascii_ply, load_mesh(".ply"), ("mesh.files.load_mesh",)),
    "glb": Reader(saved_mesh(".glb"), load_mesh(".glb"), ("mesh.files.load_mesh",)),
    "gltf": Reader(gltf, load_mesh(".gltf"), ("mesh.files.load_mesh",)),
    "stl": Reader(exported(".stl"), load_mesh(".stl"), ("mesh.files.load_mesh",)),
    "off": Reader(exported(".off"), load_mesh(".off"), ("mesh.files.load_mesh",)),
    "flame": Reader(
        flame_pickle,
        flame_of,
        (f"{HEADS}.model.FlameHead.from_file", f"{HEADS}.files.load_flame_arrays", f"{HEADS}.assets.read_masks"),
    ),
    "masks": Reader(masks_of, call("heads.flame.assets", "read_masks", "masks.pkl"), ()),
    "smplx": Reader(
        npz("model.npz", **skinned(55)),
        call("heads.smplx", "SmplxHead.from_file", "model.npz"),
        ("heads.smplx.SmplxHead.from_file",),
    ),
    "rigged template": Reader(
        npz("rig.npz", **skinned(5, {"scale": np.array(1.0), "texture": np.zeros((2, 2, 3), np.uint8)})),
        call("apps.rigging.rigged_template", "RiggedTemplate.from_file", "rig.npz"),
        ("apps.rigging.rigged_template.RiggedTemplate.from_file",),
    ),
    "landmarks": Reader(
        embedding_file,
        call("heads.landmarks", "Landmarks.from_file", "marks.pkl"),
        ("heads.landmarks.Landmarks.from_file", "heads.landmarks.read_embeddings"),
    ),
    "contour": Reader(
        contour_file,
        call("heads.landmarks", "ContourLandmarks.from_file", "contour.npy"),
        ("heads.landmarks.ContourLandmarks.from_file",),
    ),
    "template uv": Reader(template_uv, uv_of, (f"{HEADS}.assets.read_template_uv",)),
    "blendshapes": Reader(
        blendshapes,
        call("heads.blendshapes", "BlendshapeHead.from_file", "head.npz"),
        ("heads.blendshapes.BlendshapeHead.from_file",),
    ),
    "scan landmarks": Reader(
        landmark_json,
        call("apps.rigging.landmarks", "read_scan_landmarks", "scan.json"),
        ("apps.rigging.landmarks.read_scan_landmarks",),
    ),
    "metrical frame": Reader(
        metrical,
        call("data.formats.metrical_tracker", "read_metrical_frame", "checkpoint/00000.frame"),
        ("data.formats.metrical_tracker.read_metrical_frame", "data.formats.metrical_tracker.read_metrical_frames"),
    ),
    "metrical frame before zip": Reader(
        metrical_old, call("data.formats.metrical_tracker", "read_metrical_frame", "00000.frame"), ()
    ),
    "capture": Reader(
        capture,
        capture_of,
        (
            "data.load.load_capture",
            "data.formats.insta.read_insta",
            "data.formats.transforms.read_frames",
            "data.formats.transforms.read_transforms",
        ),
    ),
    "posed images": Reader(posed, posed_of, ("apps.texturing.images.read_posed_images",)),
    "png": Reader(picture("png"), picture_of("png"), ("files.images.open_image",)),
    "jpg": Reader(picture("jpg"), picture_of("jpg"), ()),
    "tiff": Reader(picture("tiff"), picture_of("tiff"), ()),
    "webp": Reader(picture("webp"), picture_of("webp"), ()),
    "bmp": Reader(picture("bmp"), picture_of("bmp"), ()),
    "text of numbers": Reader(
        lambda f: (f / "numbers.txt").write_text("1.5\n-2\n3e-2\n"), numbers_of, ("data.image_files.read_numbers",)
    ),
    "scans": Reader(sample("write_scans"), scans_of, ("apps.priors.scans.store.load_scans",)),
    "nphm": Reader(nphm, nphm_of, ("apps.priors.scans.nphm.read_nphm",)),
    "mononphm": Reader(
        mononphm,
        call("apps.tracking.prior.mononphm_layout", "read_mononphm", ""),
        ("apps.tracking.prior.mononphm_layout.read_mononphm",),
    ),
    "input of mononphm": Reader(mononphm_input, mononphm_input_of, ("data.formats.mononphm.load_mononphm",)),
    "landmark points": Reader(
        points,
        call("apps.tracking.prior.landmarks", "LandmarkPoints.load", "points.npz"),
        ("apps.tracking.prior.landmarks.LandmarkPoints.load",),
    ),
    "rig fit": Reader(
        rig_fit, call("apps.tracking.rig.fit", "RigFit.load", "fit.safetensors"), ("apps.tracking.rig.fit.RigFit.load",)
    ),
    "fitted sequence": Reader(
        fitted_sequence,
        call("apps.priors.sequence", "FittedSequence.load", "sequence.safetensors"),
        ("apps.priors.sequence.FittedSequence.load",),
    ),
    "prior fit": Reader(
        prior_fit,
        call("apps.tracking.prior.fit", "PriorFit.load", "fit.safetensors"),
        ("apps.tracking.prior.fit.PriorFit.load", "apps.tracking.frame_fit.FrameFit.load"),
    ),
    "checkpoint": Reader(
        checkpoint,
        checkpoint_of,
        (
            "runs.checkpoint.load",
            "runs.checkpoint.load_weights",
            "training.trainer.Trainer.load",
            "training.state.TrainingState.load",
        ),
    ),
    "run folder": Reader(
        sample("write_run"), run_of, ("runs.folder.RunFolder.read_log", "runs.folder.read_json_object")
    ),
    "tracking folder": Reader(tracking_run, tracking_run_of, ("apps.tracking.folder.TrackingFolder.open",)),
    "avatar": Reader(
        sample("write_avatar", "insta"),
        avatar_of("insta.safetensors"),
        ("avatar.composition.Composition.load", "avatar.saving.read_parts"),
    ),
    "avatar of mononphm": Reader(sample("write_avatar", "mononphm"), avatar_of("mononphm.safetensors"), ()),
    "prior": Reader(
        sample("write_prior"),
        prior_of,
        ("apps.priors.prior.load_prior", "apps.priors.prior.Prior.load", "apps.tracking.prior.load.open_prior"),
    ),
}
