"""The tutorial's code on a capture of thumbnails; `make docs` runs the notebook as it is."""

import json
import re
from pathlib import Path

import pytest
import torch

from headfields.parts import Rendering

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.ipynb"))
SMALLER = {
    r"frames=60, size=128": "frames=12, size=24",
    r"frames=\[0, 20, 40\], tile=170": "frames=[0], tile=48",
    r"minutes=[\d.]+": "steps=3",
    r"rays_per_step=\d+": "rays_per_step=64",
}


def cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    for cell in cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs before you commit"


def test_insta_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = next(path for path in NOTEBOOKS if path.stem == "insta")
    namespace: dict = {"__name__": "tutorial"}
    missing = set(SMALLER)
    for number, cell in enumerate(cells(notebook)):
        code = "".join(cell["source"])
        for pattern, replacement in SMALLER.items():
            code, count = re.subn(pattern, replacement, code)
            missing -= {pattern} if count else set()
        exec(compile(code, f"insta.ipynb, code cell {number}", "exec"), namespace)
        matplotlib.pyplot.close("all")
    assert not missing, "what the notebook no longer says cannot be made smaller"
    assert namespace["result"].step == 3 and 0 < namespace["figures"]["psnr"] < 50
    assert (tmp_path / "avatar.safetensors").exists()


def test_depth_is_shown_of_an_avatar_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """After few steps an avatar may be transparent everywhere: no picture takes its range from an empty selection."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    class Transparent:
        def render(self, camera: object, state: object) -> Rendering:
            nothing = torch.zeros(12, 10)
            return Rendering(torch.zeros(12, 10, 3), nothing, nothing)

    class Meshed:
        def depth(self, frame: int) -> torch.Tensor:
            return torch.nn.functional.pad(torch.full((4, 4), 1.2), (3, 3, 4, 4))

    notebook = next(path for path in NOTEBOOKS if path.stem == "insta")
    code = [source for cell in cells(notebook) if "mesh_depth" in (source := "".join(cell["source"]))]
    assert len(code) == 1
    names = {"avatar": Transparent(), "capture": Meshed(), "camera": None, "state": None, "frame": 0}
    exec(compile(code[0], "insta.ipynb", "exec"), {"torch": torch, "plt": plt, **names})
    plt.close("all")
