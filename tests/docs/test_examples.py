"""The Python in README.md and docs/ runs: every ```python block of a page, one after the other, in one namespace.

A block that cannot run (a signature, a few lines out of a context) is fenced as ```python fragment; it is compiled.
"""

import ast
import dataclasses
import importlib
import operator
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.priors.codes import anchors_of
from headfields.apps.tracking import PriorTrackingOptions
from headfields.apps.tracking.prior.landmarks import LandmarkPoints
from headfields.data.formats.insta_writer import write_insta
from headfields.mesh import save_mesh
from headfields.models.mononphm import code_widths
from headfields.synthetic.head.model import procedural_head_arrays
from headfields.synthetic.rig_captures import write_rig_capture
from tests.apps.priors.tiny import tiny_model, tiny_scans
from tests.apps.rigging.conftest import sealed_scan
from tests.apps.texturing.room import bumpy, photographs, poor_mesh, views
from tests.apps.texturing.test_texturing import written
from tests.apps.tracking.prior.ball import ball_landmarks
from tests.apps.tracking.rig.conftest import bust
from tests.data.formats import vhap_folder
from tests.data.formats.mononphm_folder import write_folder
from tests.data.formats.test_metrical_tracker import save
from tests.data.tiny import blob, tiny_frames
from tests.heads.flame.published import write_landmark_files, write_masks, write_template
from tests.heads.flame.test_model import SEVEN

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IMPORTS = "import torch\nimport headfields as hf\n"
BEFORE = {
    "files.md": """
shape, expression, pose = torch.zeros(2, 300), torch.zeros(2, 100), torch.zeros(2, 5, 3)
vertices = hf.synthetic.procedural_head().template_vertices[None]
faces = hf.synthetic.procedural_head().faces
camera = None
""",
    "splatting.md": """
camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(8, 8), fov=20)
means, quaternions, scales = 0.05 * torch.randn(4, 3), torch.randn(4, 4), torch.full((4, 3), 0.02)
opacities, colors, background, photographs = torch.rand(4), torch.rand(4, 3), torch.ones(3), torch.rand(1, 8, 8, 3)
""",
    "mesh_rendering.md": """
vertices, faces = torch.tensor([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.0, 0.1, 0.0]]), torch.tensor([[0, 1, 2]])
uv, uv_faces, texture = torch.tensor([[0.0, 0], [1, 0], [0.5, 1]]), faces, torch.rand(8, 8, 3)
camera, coefficients = hf.Camera.look_at((0, 0, 0.6), (0, 0, 0), size=(24, 24), fov=25), torch.ones(9, 3)
image, background, matte = torch.rand(24, 24, 3), torch.ones(3), torch.zeros(24, 24)
matte[6:18, 6:18] = 1
""",
    "page.md": """
template = hf.data.load_capture("captures/someone").template
hf.models.gaussian_avatars(template, count=50).save("runs/someone/avatar.safetensors")
""",
    "parts.md": """
from pathlib import Path
hf.Avatar(
    hf.deformers.Static(torch.tensor([[-0.1] * 3, [0.1] * 3])), hf.encoders.Frequency(2), hf.decoders.NeRFDecoder(8),
    hf.renderers.VolumeRenderer(hf.renderers.UniformSampler(4)),
).save("avatar.safetensors")
Path("elsewhere").mkdir()
Path("elsewhere/my_parts.py").write_text("x = 1")
""",
    "prior.md": """
from tests.apps.priors.tiny import tiny_scans
camera, scans = hf.Camera.look_at((0, 0, 0.6), (0, 0, 0), size=(12, 12), fov=25), tiny_scans(people=1)
""",
    "tracking.md": """
from tests.docs.test_examples import shortened
capture, out = hf.data.load_capture("captures/someone"), "runs/other"
""",
    "training.md": """
losses = [hf.losses.HuberColor()]
""",
    **dict.fromkeys(
        ("viewer.md", "notebooks.md"),
        """
template = hf.data.load_capture("captures/nobody").template
avatar = hf.models.insta(template, expression_width=16, levels=2, features=2, log2_table_size=8)
avatar.save("runs/nobody/avatar.safetensors")
""",
    ),
    "retargeting.md": """
avatar = hf.models.insta(hf.data.load_capture("captures/someone").template, expression_width=16)
""",
}
"""What a page takes for granted, apart from the imports."""
RIGS = {"template_tracking.md": ["captures/talk"], "vp360.md": ["tracking/capture"]}
"""Pages that read rig.npz, and the captures of it that they read."""
SMALLER = {
    r'"runs/nobody", minutes=\d+': '"runs/nobody", steps=2, arguments={"log2_table_size": 10, "levels": 4}',
    r"(insta\(capture.template, expression_width=\d+)\)": r"\1, levels=2, features=2, log2_table_size=8)",
    r"log2_table_size=1[7-9]": "log2_table_size=10",
    r"minutes=\d+": "steps=2",
    r"steps=\d{2,}": "steps=2",
    r"seeds=\d": "seeds=1",
    r"\[17\]": "[1]",
    r'devices=2, strategy="ddp"': "devices=1",
    r"field\(state\)\)": "field(state), resolution=16)",
    r"fit_scans\(prior, scans\)": "fit_scans(prior, scans, steps=2)",
    r"(\S+Options\.quick\(\))": r"shortened(\1)",
    r"resolution=1024, refine=\d+": "resolution=64, refine=2",
    r'"pictures"\)': '"pictures", views=2, size=32)',
    r"procedural_body\(\)\)": (
        "procedural_head(), inner_mouth=False, stages=hf.rigging.registration.DEFAULT_STAGES[2:3])"
    ),
}
"""What would take minutes, as something that takes a second."""


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line of the code's beginning, the rest of the fence's first line, and the code."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield text[: match.start()].count("\n") + 2, match[1].strip(), match[2]


def compiled(page: Path, line: int, code: str):
    return compile("\n" * (line - 1) + code, str(page), "exec")  # so that a traceback shows the page's own lines


@pytest.fixture(scope="module")
def written_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of a few frames."""
    folder = tmp_path_factory.mktemp("pages") / "capture"
    generator = torch.Generator().manual_seed(0)
    frames = [dataclasses.replace(frame, expression=torch.randn(16, generator=generator)) for frame in tiny_frames()]
    write_insta(folder, frames, *blob(), test_frames=2)
    return folder


@pytest.fixture
def folder(written_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with captures where the pages expect them."""
    for name in ("nobody", "someone", "somebody_else"):
        shutil.copytree(written_capture, tmp_path / "captures" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rig(folder: Path, *captures: str) -> None:
    """What pages about rigs read: a rig, and captures of it."""
    rig = bust()
    rig.save(folder / "rig.npz")
    for name in captures:
        write_rig_capture(rig, folder / name, "talk", frames=4, size=32, samples=1, rate=2.0, progress=False)


def shortened(options: PriorTrackingOptions) -> PriorTrackingOptions:
    """The options with a few steps, rays and samples."""
    return dataclasses.replace(
        options, stage1=dataclasses.replace(options.stage1, steps=3, starts=2), rays=24, coarse=6, fine=4,
        stage2=dataclasses.replace(options.stage2, steps_a_frame=1.0), mesh_resolution=12,
    )  # fmt: skip


def write_prior(folder: Path) -> None:
    """What the pages on priors read: a prior with untrained networks, and a capture with its landmarks."""
    scans, generator = tiny_scans(), torch.Generator().manual_seed(0)
    avatar = tiny_model(scans)
    codes = [
        0.1 * torch.randn(rows, code_widths(avatar)[name], generator=generator)
        for rows, name in ((3, "geometry"), (3, "appearance"), (9, "expression_code"))
    ]
    prior = hf.priors.Prior(avatar, *codes, scans.person, scans.neutral, scans.people, scans.scans)
    prior.save(folder / "runs/prior/prior.safetensors")
    points = LandmarkPoints.near(ball_landmarks().base, anchors_of(avatar)(prior.mean().geometry)[0])
    points.save(folder / "runs/prior/landmarks.npz")
    frames = [
        dataclasses.replace(frame, landmarks=frame.camera.project(points.base)[0].numpy()) for frame in tiny_frames(2)
    ]
    write_insta(folder / "captures" / "someone", frames, *blob(), test_frames=1)


def write_recordings(folder: Path) -> None:
    """What tracking.md reads: a prior, a capture, and a sequence in MonoNPHM's layout."""
    write_prior(folder)
    write_folder(folder / "data/510_seq_4")


def write_texture_set(folder: Path) -> None:
    """What texturing.md reads: a mesh, and pictures from around."""
    _, faces, uv, uv_faces = bumpy()
    save_mesh(folder / "mesh.obj", hf.Mesh(poor_mesh(), faces, uv=uv, uv_faces=uv_faces))
    written(folder / "set", photographs(views(4, 32)))


def write_scan(folder: Path) -> None:
    """What rigging.md reads: a scan of a head, its lips closed."""
    head = hf.synthetic.procedural_head()
    save_mesh(folder / "scan.obj", sealed_scan(head, head.template_vertices, subdivisions=5))


def write_flame_files(folder: Path) -> None:
    """What files.md reads: a model, its masks, landmarks and template, and a tracker's frames, and Gaussians."""
    arrays = procedural_head_arrays()
    (folder / "generic_model.pkl").write_bytes(pickle.dumps({key: arrays[key] for key in SEVEN}, protocol=2))
    write_masks(folder, arrays)
    write_landmark_files(folder, arrays)
    write_template(folder, arrays)
    for name in ("l_eyelid.npy", "r_eyelid.npy"):
        np.save(folder / name, np.zeros_like(arrays["v_template"]))
    gaussians = hf.networks.Gaussians(3, degree=1)
    gaussians.face.fill_(2)
    hf.data.save_gaussians(folder / "point_cloud.ply", gaussians)
    widths = {"translation": 3, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "expr": 100}
    motion = {name: torch.zeros(2, width) for name, width in widths.items()}
    hf.data.formats.gaussian_ply.save_flame_parameters(folder, {**motion, "shape": torch.zeros(300)})
    save(folder / "checkpoint", 12)
    for index in (1, 2):
        save(folder / "output" / "someone" / "checkpoint", index)


def write_export(folder: Path) -> None:
    """What captures.md reads: a capture with FLAME parameters, and the model."""
    np.savez(folder / "FLAME_NEUTRAL.npz", **procedural_head_arrays())
    vhap_folder.write(folder / "captures" / "export", hf.synthetic.procedural_head(), steps=1)


INPUTS = {
    "captures.md": write_export, "files.md": write_flame_files, "prior.md": write_prior, "rigging.md": write_scan,
    "texturing.md": write_texture_set, "tracking.md": write_recordings,
}  # fmt: skip
"""What writes the files that a page reads."""
LONG = (
    "rigging.md",
    "compare.md",
    "your_own_video.md",
    "recipes.md",
    "template_tracking.md",
    "geometry_metrics.md",
    "own_capture.md",
    "body.md",
    "head_frame.md",
    "tracking.md",
    "add_an_encoder.md",
    "latent_codes.md",
    "notebooks.md",
    "uv.md",
    "vp360.md",
)
"""Pages that take seconds (a scan is registered, a study run, a video tracked), of which the names are checked."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG else [], id=page.name)
        for page in PAGES
        if any(blocks(page))
    ],
)
def test_the_python_of_a_page_runs(page: Path, folder: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headfields.apps.tracking.prior.pictures.CELLS", 16)
    if page.name in RIGS:
        write_rig(folder, *RIGS[page.name])
    if page.name in INPUTS:
        INPUTS[page.name](folder)
    if page.name == "inner_mouth.md":
        write_insta(folder / "captures" / "someone", tiny_frames(open_mouth=True), *blob(open_mouth=True))
    torch.manual_seed(0)
    namespace: dict = {"__name__": f"docs_{page.stem}"}
    exec(IMPORTS + BEFORE.get(page.name, ""), namespace)
    for line, mark, code in blocks(page):
        assert mark in ("", "fragment"), f"{page.name}:{line}: fence the block as ```python or ```python fragment"
        if mark == "fragment":
            compiled(page, line, code)
            continue
        for pattern, replacement in SMALLER.items():
            code = re.sub(pattern, replacement, code)
        exec(compiled(page, line, code), namespace)


@pytest.mark.parametrize("name", LONG)
def test_a_long_page_compiles_and_names_what_there_is(name: str) -> None:
    page = ROOT / "docs" / name
    for line, _, code in blocks(page):
        compiled(page, line, code)
        for dotted in set(re.findall(r"\bhf((?:\.\w+)+)", code)):
            operator.attrgetter(dotted[1:])(hf)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{name}:{line}"


def test_a_page_that_breaks_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nx = 1\nraise RuntimeError(x)\n```\n\n```python fragment\nf(...)\n```\n")
    (line, mark, code), (_, other, _) = blocks(page)
    assert (line, mark, other) == (4, "", "fragment")
    with pytest.raises(RuntimeError) as caught:
        exec(compiled(page, line, code), {})
    assert caught.traceback[-1].lineno + 1 == 5
