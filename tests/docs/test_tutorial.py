"""The tutorial's code on a capture of thumbnails; `make docs` runs the notebook as it is."""

import json
import re
from pathlib import Path

import pytest

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
