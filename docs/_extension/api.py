"""The API reference: one page a public module, written from its `__all__` before Sphinx reads the sources.

Also here: what makes docstrings that are read in an editor build without warnings. Single backticks become links where
they name something public, and the vertical bars and asterisks of formulas stay what they are.
"""

import importlib
import inspect
import itertools
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.parsers.rst import roles
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

PACKAGE = "headfields"
MODULES = (
    "headfields.compare",
    "headfields.interop.kaolin",
    "headfields.interop.open3d",
    "headfields.interop.pytorch3d",
    "headfields.interop.trimesh",
    "headfields.apps.priors.scans",
)
"""Public packages within packages, and one that the package names without listing it."""
COLON = "\ue000"  # stands for a colon while napoleon looks
LINKS = {
    "jaxtyping": "https://docs.kidger.site/jaxtyping/api/array/",
    "Tensor": "https://docs.pytorch.org/docs/stable/tensors.html",
    "torch": "https://docs.pytorch.org/docs/stable/torch.html",
}
"""Where the names of other libraries lead, by their first part; every other foreign name is plain code."""


def modules() -> list[str]:
    """The package, its public modules, and `MODULES`, as `import` takes them."""
    packages = [importlib.import_module(dotted) for dotted in (PACKAGE, f"{PACKAGE}.apps")]
    named = [getattr(package, name) for package in packages for name in package.__all__]
    return sorted({PACKAGE, *(value.__name__ for value in named if isinstance(value, ModuleType)), *MODULES})


def public_names(module: ModuleType) -> list[str]:
    """`__all__` without modules, or what a module without one defines and documents."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
    constants = {name for scope, name in ModuleAnalyzer.for_module(module.__name__).find_attr_docs() if not scope}
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return sorted(name for name in own | constants if not name.startswith("_"))


def constant_docstring(module: ModuleType, name: str) -> list[str]:
    """The string below a constant's assignment, in whichever file of the package the assignment is."""
    for path in sorted(Path(module.__file__ or "").parent.rglob("*.py")):
        inside = path.relative_to(Path(module.__file__ or "").parent).with_suffix("")
        dotted = ".".join([str(module.__package__), *inside.parts]).removesuffix(".__init__")
        found = ModuleAnalyzer.for_file(path, dotted).find_attr_docs().get(("", name))
        if found:
            return found
    return []


def is_code(value: Any) -> bool:
    """Whether it is a class or a function, rather than a constant."""
    return inspect.isclass(value) or inspect.isroutine(value)


def entry(module: ModuleType, name: str) -> str:
    """The directive that documents one public name."""
    value, full = getattr(module, name), f"{module.__name__}.{name}"
    if inspect.isclass(value):
        bases = any(base.__module__.split(".")[0] in (PACKAGE, "torch") for base in value.__bases__)
        return f".. autoclass:: {full}\n   :members:\n" + ("   :show-inheritance:\n" if bases else "")
    if is_code(value):
        return f".. autofunction:: {full}\n"
    text = "\n".join(f"   {line}".rstrip() for line in constant_docstring(module, name))
    return f".. py:data:: {full}\n   :value: {value!r}\n\n{text}\n"


def names_by_module() -> dict[ModuleType, list[str]]:
    """What each page documents: a name exported at two places stands at the shorter one."""
    shown: dict[ModuleType, list[str]] = {}
    seen: set[int] = set()
    for module in sorted((importlib.import_module(dotted) for dotted in modules()), key=depth):
        names = [name for name in public_names(module) if id(getattr(module, name)) not in seen]
        seen.update(id(getattr(module, name)) for name in names)
        if names:
            shown[module] = names
    return dict(sorted(shown.items(), key=lambda item: item[0].__name__))


def depth(module: ModuleType) -> int:
    """Dots in a module's name."""
    return module.__name__.count(".")


def classes_in(annotation: Any) -> Iterator[type]:
    """The package's own classes in a type annotation, however deep."""
    for each in (annotation, typing.get_origin(annotation)):  # a generic class, or one of it
        if inspect.isclass(each) and each.__module__.startswith(PACKAGE):
            yield each
    for argument in annotation if isinstance(annotation, list) else typing.get_args(annotation):
        yield from classes_in(argument)


def mentioned(value: Any) -> Iterator[type]:
    """The package's own classes that a public function or class derives from, takes, holds or returns."""
    if inspect.isclass(value):
        yield from (base for base in value.__bases__ if base.__module__.startswith(PACKAGE))
        for annotation in vars(value).get("__annotations__", {}).values():
            yield from classes_in(annotation)
        for name, member in vars(value).items():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                yield from mentioned(member)
    elif inspect.isfunction(value):
        try:
            annotations = typing.get_type_hints(value)
        except NameError:  # of an import for type checkers alone
            annotations = inspect.get_annotations(value)
        for annotation in annotations.values():
            yield from classes_in(annotation)


def pages() -> dict[str, str]:
    """File name and reStructuredText of every page.

    Classes that a public signature speaks of, but that are not exported, stand at the foot of the page that does.
    """
    shown = names_by_module()
    documented = {value for module, names in shown.items() for name in names if is_code(value := getattr(module, name))}
    made = {}
    for module, names in shown.items():
        dotted = module.__name__
        title = dotted if dotted == PACKAGE else dotted.removeprefix(f"{PACKAGE}.")
        parts = [f"{title}\n{'=' * len(title)}\n", f".. automodule:: {dotted}\n   :no-members:\n"]
        parts += [entry(module, name) for name in names]
        waiting = [getattr(module, name) for name in names]
        met = []
        while waiting:
            new = [cls for cls in mentioned(waiting.pop(0)) if cls not in documented and cls.__name__[0] != "_"]
            documented |= set(new)
            waiting += new
            met += [f".. autoclass:: {cls.__module__}.{cls.__qualname__}\n   :members:\n" for cls in dict.fromkeys(new)]
        parts += ["Met in these signatures\n-----------------------\n", *sorted(met)] if met else []
        made[f"{title}.rst"] = "\n".join(parts)
    names = [name.removesuffix(".rst") for name in made]
    toctree = "\n".join(f"   {name}" for name in names)
    made["index.rst"] = f"API reference\n=============\n\n.. toctree::\n   :maxdepth: 1\n\n{toctree}\n"
    return made


def write_pages(app: Sphinx) -> None:
    """Writes the pages that differ to `api/` next to the sources, so that an unchanged one is not built again."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    made = pages()
    for old in folder.glob("*.rst"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def plain(line: str) -> str:
    """Escapes what reStructuredText would take for markup outside of backticks: formulas have bars and asterisks."""
    pieces = re.split(r"(`+[^`]*`+|(?<![\w*])\*\w[^*]*\w\*(?!\w))", line)
    pieces[1::2] = [  # what follows closing backticks without a space
        code + ("\\ " if re.match(r"[^\s.,:;!?)\]}'\"/-]", after) else "")
        for code, after in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    pieces[::2] = [re.sub(r"\|(?=\S)|(?<=\S)\||\*|(?<=\w)_(?=\W|$)", r"\\\g<0>", text) for text in pieces[::2]]
    return "".join(pieces)


def process_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon, which makes markup of its own, and takes what is before a property's first colon for a type."""
    colon = COLON if what in ("property", "attribute", "data") else ":"
    lines[:] = [plain(line).replace(":", colon, 1) if i == 0 else plain(line) for i, line in enumerate(lines)]


def quote_types(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """After napoleon, which takes the types of attributes from the annotations, as they stand: no markup either."""
    for i, line in enumerate(lines):
        lines[i] = line.replace(COLON, ":")
        if match := re.match(r"(:vartype [^:]+: )(.*)$", line):
            lines[i] = f"{match[1]}``{unqualified(match[2])}``"
    lines[:] = separate_attributes(lines)


def separate_attributes(lines: list[str]) -> list[str]:
    """An entry for each attribute of `width, height: pixels`; Sphinx takes the first for the type of the last.

    >>> separate_attributes([":ivar width, height: Of the images,", "                     pixels."])[2:]
    [':ivar height: Of the images,', '                     pixels.']
    """
    separate = []
    for i, line in enumerate(lines):
        match = re.match(r":ivar (\w+(?:, \w+)+):(.*)$", line)
        if match is None:
            separate.append(line)
            continue
        rest = list(itertools.takewhile(lambda after: after[:1] == " ", lines[i + 1 :]))
        *others, last = match[1].split(", ")
        for attribute in others:
            separate += [f":ivar {attribute}:{match[2]}", *rest]
        separate.append(f":ivar {last}:{match[2]}")  # what is indented below follows it already
    return separate


def shorten(app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returns: str) -> Any:
    """In signatures too."""
    return tuple(text and unqualified(text) for text in (signature, returns))


def unqualified(types: str) -> str:
    """Types of other libraries by their own names: `Float[Tensor, 'n 3']`."""
    return re.sub(r"~?\b(jaxtyping|torch|collections\.abc|pathlib|typing)\.", "", types)


def name_role(role: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Single backticks: a link if it names something public, code in any case."""
    target = re.sub(r"^hf\.", f"{PACKAGE}.", text).removesuffix("()")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", target):
        return [nodes.literal(raw, text)], []
    environment = inliner.document.settings.env
    context = {f"py:{key}": environment.ref_context.get(f"py:{key}") for key in ("module", "class")}
    return [possible_link(raw, text, target, environment.docname, **context)], []


def possible_link(raw: str, text: str, target: str, page: str, **context: Any) -> addnodes.pending_xref:
    """Code that becomes a link where `target` is in the reference."""
    return addnodes.pending_xref(
        raw, nodes.literal(raw, text, classes=["xref", "py"]), refdomain="py", reftype="obj", reftarget=target,
        refexplicit=False, refdoc=page, maybe=True, **context,
    )  # fmt: skip


def public_target(text: str) -> str | None:
    """The name to look up for code on a Markdown page: `hf.ops.rasterize_gaussians` or a class, also where it is
    called."""
    match = re.fullmatch(r"(hf\.|headfields\.)?([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)(\(.*\))?", text, re.DOTALL)
    if match is None or not (match[1] or re.match(r"[A-Z]\w*[a-z]", match[2])):
        return None
    return f"{PACKAGE}.{match[2]}" if match[1] else match[2]


def link_code(app: Sphinx, doctree: nodes.document) -> None:
    """On Markdown pages too, code that names something public leads to the reference: the papers' tables, say."""
    if Path(app.env.doc2path(app.env.docname)).suffix not in (".md", ".ipynb"):
        return
    for code in list(doctree.findall(nodes.literal)):
        target = public_target(code.astext())
        if target and not isinstance(code.parent, nodes.title | nodes.reference | addnodes.pending_xref):
            code.parent.replace(code, possible_link(code.rawsource, code.astext(), target, app.env.docname))


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement) -> Any:
    """What is not in this reference: a link to the other library's, or the name alone."""
    if node.get("maybe"):
        domain, name = env.domains.python_domain, node["reftarget"]
        ends = [full for full in domain.objects if full.endswith(f".{name}")] if not name[0].islower() else []
        if len(ends) != 1:
            return content
        return make_refnode(app.builder, node["refdoc"], domain.objects[ends[0]].docname, ends[0], content, ends[0])
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if target.startswith(PACKAGE):
        home, _, name = target.rpartition(".")
        generic = isinstance(getattr(importlib.import_module(home), name, None), typing.TypeVar)
        return content if generic or name.startswith("_") else None  # None is a warning
    address = LINKS.get(target.split(".")[0])
    return nodes.reference("", "", content, internal=False, refuri=address) if address else content


def setup(app: Sphinx) -> dict[str, Any]:
    roles.register_local_role("name", name_role)
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-process-docstring", quote_types, priority=900)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", link_code)
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
