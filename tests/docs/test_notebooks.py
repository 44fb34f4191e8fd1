"""The notebooks: their outputs belong to their code, what they name exists, and they run with less of everything;
`make docs` runs them as they are."""

import ast
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import headfields as hf
from headfields.parts import Rendering
from tests.tables import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
SMALLER: dict[str, dict[str, str]] = {
    "insta": {
        r"frames=60, size=128": "frames=12, size=24",
        r"frames=\[0, 20, 40\], tile=170": "frames=[0], tile=48",
        r"minutes=[\d.]+": "steps=3",
        r"rays_per_step=\d+": "rays_per_step=64",
    },
    "compare_primitives": {
        r"side = 200": "side = 24",
        r"range\(150\)": "range(2)",
        r"64_000": "2_000",
        r"20_000": "200",
    },
    "gaussians": {
        r"frames=30, size=96": "frames=12, size=32",
        r"count=6000": "count=300",
        r"avatar, 400, ": "avatar, 2, ",
        r"variant, 120, ": "variant, 2, ",
        r"count=12, degrees=120, size=160": "count=2, degrees=120, size=32",
    },
    "prior": {
        r"people=12, expressions=3": "people=3, expressions=3",
        r"rows = \[0, 1, 2, 9, 10, 11, 18, 19, 20\]": "rows = [0, 3]",
        r"scans_per_step=4": "scans_per_step=2",
        r"steps=240": "steps=2",
        r"steps=60": "steps=2",
        r"resolution=72": "resolution=12",
        r"size=170": "size=24",
        r"rays=120, coarse=12, fine=8": "rays=16, coarse=6, fine=4",
    },
    "scan_to_avatar": {r"count=5000": "count=300", r"steps=250": "steps=2"},  # tracking needs its frames
    "own_parts": {r"frames=24, size=64": "frames=12, size=24", r"steps=150": "steps=2"},
}
"""What would take a minute, as something that takes a second."""


def cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def code_of(notebook: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells(notebook))


def run(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the notebook in a folder, with less of everything, and returns its names."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(folder)
    namespace: dict = {"__name__": "tutorial"}
    replacements = SMALLER[notebook.stem]
    missing = set(replacements)
    for number, cell in enumerate(cells(notebook)):
        code = "".join(cell["source"])
        for pattern, replacement in replacements.items():
            code, count = re.subn(pattern, replacement, code)
            missing -= {pattern} if count else set()
        exec(compile(code, f"{notebook.name}, code cell {number}", "exec"), namespace)
        matplotlib.pyplot.close("all")
    assert not missing, "what the notebook no longer says cannot be made smaller"
    return namespace


def dotted(node: ast.expr) -> list[str]:
    """`a.b.c` as its names; [] for what is not of that form."""
    if isinstance(node, ast.Name):
        return [node.id]
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*inner, node.attr] if inner and isinstance(node, ast.Attribute) else []


def library_names(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """The line of each name below `hf`, and the name."""
    for node in ast.walk(tree):
        names = dotted(node) if isinstance(node, ast.Attribute) else []
        if names[:1] == ["hf"]:
            yield node.lineno, names[1:]


def resolved(names: list[str]) -> Any:
    value: Any = hf
    for name in names:
        value = getattr(value, name)
    return value


def tutorials() -> Any:
    specification = importlib.util.spec_from_file_location("tutorials", DOCS / "_extension" / "tutorials.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def shows(code: str) -> bool:
    """Whether a cell has an output: its last line is a value, or it prints or plots."""
    tree = ast.parse(code)
    called = {dotted(node.func)[-1:] == [name] for node in ast.walk(tree) if isinstance(node, ast.Call)
              for name in ("print",)}  # fmt: skip
    plots = any(isinstance(node, ast.Expr) and ast.unparse(node).startswith(("plt.show(", "draw_slices("))
                for node in tree.body)  # fmt: skip
    return isinstance(tree.body[-1], ast.Expr) or any(called) or plots


@table("notebook", NOTEBOOKS)
def test_outputs_are_those_of_the_code(notebook: Path) -> None:
    """They can be read where they are; a cell that has changed since, or one before it, is noticed."""
    module, code = tutorials(), ["".join(cell["source"]) for cell in cells(notebook)]
    remedy = f"run python docs/_extension/tutorials.py {notebook.stem}, and look at it"
    pictures = 0
    for cell, source, note in zip(cells(notebook), code, module.notes(code), strict=True):
        assert cell["metadata"].get(module.NOTE) == note, f"the outputs belong to other code; {remedy}"
        assert bool(cell["outputs"]) or not shows(source), f"no output of\n{source}\n{remedy}"
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
            kinds = set(output.get("data", {}))
            pictures += bool(kinds & {"image/png", "image/jpeg"})
            assert "data:image" not in str(output.get("data", {}).get("text/html")), "a picture within HTML"
    assert pictures >= 3, f"{notebook.name} shows {pictures} pictures"
    assert notebook.stat().st_size < 1_000_000, "pictures of this size make the repository grow"


def test_a_note_is_of_all_code_before_it() -> None:
    notes = tutorials().notes
    first, changed = notes(["a = 1", "print(a)", "a"]), notes(["a = 2", "print(a)", "a"])
    assert len(set(first)) == 3 and not set(first) & set(changed)
    assert notes(["a = 1", "print(a)", "a + 1"])[:2] == first[:2]
    assert notes(["ab", "c"])[1] != notes(["a", "bc"])[1]


@table("notebook", NOTEBOOKS)
def test_what_notebooks_name_exists(notebook: Path) -> None:
    """Every name of the library, every import from it, and every argument that is passed to it by name."""
    tree = ast.parse(code_of(notebook))
    names = list(library_names(tree))
    assert len(names) > 5
    for line, name in names:
        try:
            resolved(name)
        except AttributeError as error:
            raise AssertionError(f"{notebook.name}, line {line} of its code: hf.{'.'.join(name)}: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "headfields":
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Call) and dotted(node.func)[:1] == ["hf"]:
            parameters = inspect.signature(resolved(dotted(node.func)[1:])).parameters
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                unknown = {str(keyword.arg) for keyword in node.keywords if keyword.arg} - set(parameters)
                assert not unknown, f"{ast.unparse(node.func)} takes no {', '.join(sorted(unknown))}"


def test_pages_lead_to_every_notebook() -> None:
    tree, overview = (DOCS / "index.md").read_text(), (DOCS / "README.md").read_text()
    for notebook in NOTEBOOKS:
        assert f"tutorials/{notebook.stem}\n" in tree, f"docs/index.md: {notebook.stem} is in no toctree"
        assert f"(tutorials/{notebook.name})" in overview, f"docs/README.md does not name {notebook.name}"


@pytest.mark.slow
def test_insta_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    names = run(DOCS / "tutorials" / "insta.ipynb", tmp_path, monkeypatch)
    assert names["result"].step == 3 and 0 < names["figures"]["psnr"] < 50
    assert (tmp_path / "avatar.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("notebook", [path for path in NOTEBOOKS if path.stem != "insta"], ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    run(notebook, tmp_path, monkeypatch)


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
