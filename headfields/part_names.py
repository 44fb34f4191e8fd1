"""The names of parts in files: the class of a name, the name of a part, and modules that define further parts."""

import contextlib
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from headfields.part_base import Part, part_classes

_OWN = re.compile(r"headfields\.(deformers|encoders|decoders|renderers|networks)(\.[a-z]\w*)*\.[A-Z]\w*")


def part_class(name: str) -> type[Part]:
    """The `Part` subclass registered under `module.ClassName`.

    Imports nothing but the library's own files of parts. A class of a script or a notebook, whose module is called
    `__main__`, is found under the name of the script's file too, and under that of the one imported module with a class
    of its name.

    Raises:
        ValueError: no class of that name has been imported.
    """
    if name not in part_classes and _OWN.fullmatch(name):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name.rpartition(".")[0])
    cls = part_classes.get(name) or _class_of_script(name)
    if cls is None and name.startswith("__main__."):
        raise ValueError(
            f"{name} was defined in a script or a notebook; put the class into a module (my_parts.py) and import it "
            "first, or name it on the command line: --import my_parts.py"
        )
    if cls is None:
        raise ValueError(
            f"{name} is not a part of headfields or of any module imported so far; "
            "import the module that defines it first, or name its file on the command line: --import my_parts.py"
        )
    return cls


def _class_of_script(name: str) -> type[Part] | None:
    """A class of the running script under the name of its file, and one of an imported file under `__main__`."""
    module, _, own = name.partition(".")
    if module == "__main__":
        same = [
            cls for key, cls in part_classes.items() if cls.__qualname__ == own and not key.startswith("headfields.")
        ]
        return same[0] if len(same) == 1 else None
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return part_classes.get(f"__main__.{own}") if script and Path(script).stem == module else None


def import_parts(source: str | Path) -> ModuleType:
    """Imports a module that defines parts, so that avatars with these parts can be loaded.

    The module of a file is called as the file is, without ".py", as it is by a script next to it that imports it: a
    part has one name in saved files, however its module was imported. The file's folder is put first in `sys.path`,
    for what the file imports and for worker processes.

    Args:
        source: a Python file, or the name of a module of an installed package or below the current folder.

    Raises:
        FileNotFoundError: there is no such file or module.
        ValueError: the file's name is no name of a module, or that of another imported module.
    """
    path = Path(source)
    if path.suffix != ".py":
        _search_first(Path.cwd())
        try:
            return importlib.import_module(str(source))
        except ModuleNotFoundError as error:
            if error.name is None or not str(source).startswith(error.name):
                raise  # the module is there, and imports another that is not
            raise FileNotFoundError(f"{source}: there is no such module; name a file, as my_parts.py") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the Python file that defines the parts")
    if not path.stem.isidentifier():
        raise ValueError(f"{path} cannot be imported as {path.stem!r}; give it a name such as my_parts.py")
    known = sys.modules.get(path.stem)
    if known is None:
        _search_first(path.resolve().parent)
        known = importlib.import_module(path.stem)
    if Path(getattr(known, "__file__", None) or ".").resolve() != path.resolve():
        raise ValueError(f"{path}: another module is named {path.stem} already; rename the file")
    return known


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def part_name(part: Part) -> str:
    """`module.ClassName` of a part, as `part_class` takes it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"
