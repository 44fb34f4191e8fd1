"""Imports inside the library run one way, as docs/layout.md says, and never in a circle."""

import ast
import copy
import functools
import graphlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "headfields"
PAGE = ROOT / "docs" / "layout.md"


def modules(folder: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name and file of every module of the library, but for the package itself, which only names the rooms."""
    dotted = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }
    return {name: path for name, path in dotted.items() if name != "headfields"}


@functools.cache
def parsed(path: Path) -> list[ast.AST]:
    """Every node of a file; not to be changed."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The library's modules that a file imports, late and under `TYPE_CHECKING` too."""
    for node in parsed(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@functools.cache
def imports(folder: Path = PACKAGE) -> dict[str, set[str]]:
    known = modules(folder)
    return {name: {other for other in imported(path, known) if other in known} - {name} for name, path in known.items()}


def floors() -> dict[str, int]:
    """The floor of each room, from the page: the block of code whose lines are floors, the lowest first."""
    block = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None, "docs/layout.md lists the floors in a block of text"
    return {room: floor for floor, line in enumerate(block[1].strip().splitlines()) for room in line.split()}


def room(module: str) -> str:
    """The folder or file below the package, or below `apps`, that a module is in."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1] == "apps" else parts[1]


def test_no_circle_of_imports() -> None:
    order = list(graphlib.TopologicalSorter(imports()).static_order())  # raises CycleError, which names the circle
    assert len(order) > 200
    assert len(list(graphlib.TopologicalSorter(imports(ROOT / "benchmarks")).static_order())) > 30


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in modules()} == set(floors())


def test_imports_go_to_lower_floors() -> None:
    floor = floors()
    upward = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if room(name) != room(other) and floor[room(name)] <= floor[room(other)]
    ]
    assert not upward


def test_core_is_complete_without_programs() -> None:
    """Only the package, which names the rooms, and the command line know of apps; apps know no made-up data."""
    programs = {"apps", "synthetic", "cli", "__main__"}
    outward = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if (name.split(".")[1] not in programs and other.split(".")[1] in programs)
        or (name.split(".")[1] == "apps" and other.split(".")[1] in programs - {"apps"})
    ]
    assert not outward


def test_core_holds_no_more_lines_than_the_page_says() -> None:
    said = re.search(r"at most ([\d,]+) lines", PAGE.read_text())
    assert said is not None, "docs/layout.md says how many lines the core holds at most"
    lines = {
        name: path.read_text().count("\n")
        for name, path in modules().items()
        if name.split(".")[1] not in ("apps", "synthetic", "cli", "__main__")
    }
    assert len(lines) > 200
    most, total = int(said[1].replace(",", "")), sum(lines.values())
    assert total <= most, (
        f"the core has {total:,} lines; what programs alone use goes to apps/ (docs/layout.md, What the core holds)"
    )


def test_no_exported_name_means_two_things() -> None:
    meanings: dict[str, dict[int, str]] = {}
    for path in PACKAGE.rglob("__init__.py"):
        package = importlib.import_module(".".join(path.relative_to(ROOT).parent.parts))
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            if not isinstance(value, ModuleType):
                meanings.setdefault(name, {})[id(value)] = package.__name__
    assert len(meanings) > 100
    assert not {name: list(where.values()) for name, where in meanings.items() if len(where) > 1}


def test_the_sanitizers_tests_exist() -> None:
    text = (ROOT / "csrc" / "sanitizers" / "run.py").read_text()
    names = ast.literal_eval(text.partition("TESTS = ")[2].partition("]")[0] + "]")
    missing = [name for name in names if not (ROOT / "tests" / "ops" / f"test_{name}.py").is_file()]
    assert len(names) > 10 and not missing


def test_no_run_folder_is_in_the_root() -> None:
    """A command that is tried from the root leaves its run there, and `git add` would take it."""
    runs = [path.parent.name for path in ROOT.glob("*/config.json")]
    assert [name for name in runs if name not in ("runs", "demo")] == [], "move or remove them"


def test_progress_bars_need_no_widgets() -> None:
    """`tqdm.auto` warns in a notebook without ipywidgets when the module that uses it is imported."""
    assert not [path for path in PACKAGE.rglob("*.py") if "tqdm.auto" in path.read_text()]


class _Renamed(ast.NodeTransformer):
    """A function's body with its own names numbered, so that copies with other names for variables are alike."""

    def __init__(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        names = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(node.id)
        self.number = {name: f"name {number}" for number, name in enumerate(dict.fromkeys(names))}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.number.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self.number.get(node.arg, node.arg))


def test_no_function_is_written_twice() -> None:
    """One idea, one implementation: a copied function belongs on a lower floor, from which both import it."""
    shapes: dict[tuple[type, ...], list[tuple[str, ast.FunctionDef, list[ast.stmt]]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in parsed(path):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                shape = tuple(type(part) for statement in body for part in ast.walk(statement))
                if len(shape) >= 25:  # a line or two is no idea
                    shapes.setdefault(shape, []).append((f"{path.relative_to(ROOT)}:{node.name}", node, body))
    assert len(shapes) > 2000
    places: dict[str, list[str]] = {}
    for alike in (functions for functions in shapes.values() if len(functions) > 1):
        for place, node, body in alike:
            renamed = _Renamed(node)
            text = "\n".join(ast.dump(renamed.visit(copy.deepcopy(statement))) for statement in body)
            places.setdefault(text, []).append(place)
    assert not [copies for copies in places.values() if len(copies) > 1]


@pytest.mark.parametrize(
    ("idiom", "homes", "remedy"),
    [
        (r"\[:, \[0, 1\]\], \w+\[:, \[1, 2\]\](?!, \w+\[:, \[2, 3\]\])|def \w*edges_of", ["ops/mesh_topology.py"],
         "ops.mesh_topology: directed_edges, unique_edges"),
        (r"connected_components\(", ["ops/mesh_topology.py", "ops/_unwrap_topology.py"], "vertex_components"),
        (r"def _?(unit|normalized?|unit_vectors?|length|safe_norm|norms?)\(\s*vectors?\b", ["ops/vectors.py"],
         "ops.vectors"),
        (r"maximum\(np\.linalg\.norm\(\w+, axis=-?1, keepdims=True\)", ["ops/vectors.py"], "ops.vectors.unit_rows"),
        (r"scipy\.spatial\.transform|np\.trace|def \w*(rodrigues|rotvec)", ["ops/rotations.py"], "ops.rotations"),
        (r"torch\.linalg\.inv\((lens|intrinsics)", ["records/inverse.py"],
         "records.inverse.inverse_intrinsics, which does not wait for a GPU"),
    ],
)  # fmt: skip
def test_an_idea_has_one_home(idiom: str, homes: list[str], remedy: str) -> None:
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if re.search(idiom, path.read_text()) and str(path.relative_to(PACKAGE)) not in homes
    ]
    assert not elsewhere, f"use {remedy}"
