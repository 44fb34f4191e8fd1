"""The API reference holds every public name, each with a docstring that says what goes in and what comes out."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.tables import table

pytest.importorskip("sphinx", reason="the documentation's extension needs Sphinx: pip install headfields[docs]")
EXTENSION = Path(__file__).resolve().parents[2] / "docs" / "_extension" / "api.py"


def load_extension() -> ModuleType:
    specification = importlib.util.spec_from_file_location("headfields_docs_api", EXTENSION)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


api = load_extension()
NAMES = [(module, name) for module, names in api.names_by_module().items() for name in names]
CODE = [(module, name) for module, name in NAMES if api.is_code(getattr(module, name))]


def test_every_public_name_has_a_page() -> None:
    text = "\n".join(api.pages().values())
    entries = {line.split(":: ")[1] for line in text.splitlines() if ":: " in line}
    home = {id(getattr(module, name)): f"{module.__name__}.{name}" for module, name in NAMES}
    assert len(NAMES) > 80
    for dotted in api.modules():
        module = importlib.import_module(dotted)
        assert dotted in entries or not api.public_names(module), dotted
        for name in api.public_names(module):
            assert home[id(getattr(module, name))] in entries, f"{dotted}.{name}"


@table(("module", "name"), CODE)
def test_docstrings_describe_every_argument(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    text = inspect.getdoc(value) or ""
    assert text, f"{name} has no docstring"
    bare = inspect.isclass(value) and "__init__" not in vars(value)  # an exception, a protocol, a base class
    if bare or name in MADE_BY_OTHERS:
        return
    arguments = [
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    unsaid = [argument for argument in arguments if argument != "path" and not re.search(rf"\b{argument}\b", text)]
    assert not unsaid, f"{name}: the docstring does not speak of {', '.join(unsaid)}"


MADE_BY_OTHERS = {"Capture", "FlameHead", "BlendshapeHead", "NeRFaceRecording"}
"""Classes whose constructors are not for users; a function or a class method makes them."""


def test_constants_have_a_description() -> None:
    for module, name in NAMES:
        if not api.is_code(getattr(module, name)):
            assert api.constant_docstring(module, name), f"{module.__name__}.{name}: a string below its assignment"


@pytest.mark.parametrize(
    ("written", "escaped"),
    [
        ("the norm |x| of x", r"the norm \|x\| of x"),
        ("a * b, *Nerfies* and *args", r"a \* b, *Nerfies* and \*args"),
        ("`resolution`² bins of `a | b`", r"`resolution`\ ² bins of `a | b`"),
        ("`shape`, and names_ that end so", r"`shape`, and names\_ that end so"),
    ],
)
def test_formulas_are_no_markup(written: str, escaped: str) -> None:
    assert api.plain(written) == escaped


def test_attributes_of_one_line_are_apart() -> None:
    written = [
        ":ivar width, height: Of the images,",
        "                     pixels.",
        ":vartype x: ``int``",
        ":ivar x: One.",
    ]
    assert api.separate_attributes(written) == [
        ":ivar width: Of the images,", written[1], ":ivar height: Of the images,", *written[1:],
    ]  # fmt: skip


def test_types_of_tensors_read_well() -> None:
    assert api.unqualified("~jaxtyping.Float[Tensor, 'n 3']") == "Float[Tensor, 'n 3']"
    assert api.unqualified("jaxtyping.Float[torch.Tensor, 'n']") == "Float[Tensor, 'n']"


@table(
    ("code", "target"),
    [
        ("hf.ops.rasterize_gaussians", "headfields.ops.rasterize_gaussians"),
        ("insta(template)", None),
        ("hf.models.insta(template)", "headfields.models.insta"),
        ('OccupancySampler("posed")', "OccupancySampler"),
        ("TriangleBinding.pose", "TriangleBinding.pose"),
        ("PSNR", None),
        ("--recipe released", None),
    ],
)
def test_code_on_pages_leads_to_the_reference(code: str, target: str | None) -> None:
    assert api.public_target(code) == target
