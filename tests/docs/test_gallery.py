"""The gallery of the documentation has every picture of the pages once, and its links hold."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from tests.docs.test_links import LINK, anchors

DOCS = Path(__file__).resolve().parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("gallery", DOCS / "_extension" / "gallery.py")
assert SPEC is not None and SPEC.loader is not None
gallery: Any = importlib.util.module_from_spec(SPEC)
sys.modules["gallery"] = gallery  # its dataclass looks itself up
SPEC.loader.exec_module(gallery)


def test_pictures_lead_to_what_made_them() -> None:
    text = gallery.page(DOCS)
    shown = re.findall(r"\[!\[[^\]]*\]\((images/[^)]+)\)\]\(([^)]+)\)", text)
    files = [file for file, _ in shown]
    assert len(files) == len(set(files)) > 40 and all((DOCS / file).exists() for file in files)
    own = set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
    for link in [*(target for _, target in shown), *LINK.findall(text)]:
        if link.startswith("images/"):
            continue
        name, _, anchor = link.partition("#")
        assert anchor in (anchors(DOCS / name) if name else own), f"the gallery has no #{anchor} for {link}"
    drawn = [name for name in own if name.endswith("-drawn")]
    assert len(drawn) > 10 and text.count(":pyobject:") == len(drawn)
