"""Libraries that may be missing: imported when they are first used, with a message that says how to get them."""

import importlib
from types import ModuleType


def optional_module(name: str, op: str, remedy: str) -> ModuleType:
    """Imports a module at call time.

    `importlib.util.find_spec` is no test: PyPI's kaolin 0.1 is found, and raises when it is imported.

    Args:
        name: dotted name of the module.
        op: the function that needs it, for the message.
        remedy: how to get it.

    Raises:
        ModuleNotFoundError: it is missing or cannot be imported; the message has the reason and the remedy.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError) as error:  # a library for another torch fails in any of these ways
        reason = " ".join(str(error).split())[:200]
        raise ModuleNotFoundError(f"{op} needs {name.split('.')[0]}, which cannot be imported ({reason}); {remedy}",
                                  name=name) from error  # fmt: skip
