"""The page `gallery`: every picture of the pages, each a link to what made it. Written before Sphinx reads the sources.

A picture of `images/parts` leads to the function that draws it, which stands on the page; any other to the section that
shows it, with its command.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sphinx.application import Sphinx

PICTURE = re.compile(r"!\[(?P<caption>[^\]]*)\]\((?P<file>images/[^)\s]+)\)")
HEADING = re.compile(r"^#{1,3} (?P<title>.+)$")
DRAWN_BY = ("pictures.py", "learned_pictures.py")
COLUMNS = 3


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its file below docs/, what is said of it, the page, and the heading above it."""

    file: str
    caption: str
    page: str
    heading: str

    @property
    def section(self) -> str:
        """A link to the heading, by the anchor that MyST and GitHub make of it."""
        return f"{self.page}.md#{re.sub(r'[^a-z0-9_ -]', '', self.heading.lower()).replace(' ', '-')}"


def pictures(folder: Path) -> Iterator[Picture]:
    """The pictures of all pages, each where it is shown first."""
    seen = set()
    for path in sorted(folder.glob("*.md"), key=lambda path: (path.stem == "benchmarks", path.stem)):  # charts last
        heading, in_code = path.stem, False
        for line in path.read_text(encoding="utf-8").splitlines() if path.stem != "gallery" else []:
            in_code ^= line.startswith("```")
            if not in_code and (found := HEADING.match(line)):
                heading = found["title"]
            for found in [] if in_code else PICTURE.finditer(line):
                if found["file"] not in seen:
                    seen.add(found["file"])
                    yield Picture(found["file"], found["caption"], path.stem, heading)


def drawings(extension: Path) -> dict[str, str]:
    """The file of each function that draws a picture of `images/parts`, by the function's name."""
    return {
        node.name: file
        for file in DRAWN_BY
        for node in ast.parse((extension / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def page(folder: Path) -> str:
    """The page's Markdown."""
    drawn, cells, code = drawings(folder / "_extension"), [], []
    for each in pictures(folder):
        name = Path(each.file).stem
        made = each.file.startswith("images/parts/") and name in drawn
        target = f"#{name.replace('_', '-')}-drawn" if made else each.section
        caption = re.sub(r"[|\n]", " ", each.caption)
        cells.append(f"[![{caption}]({each.file})]({target}) {caption} ([{each.page}]({each.section}))")
        if made:
            code += [
                f"({name.replace('_', '-')}-drawn)=", f"### {name}", "",
                f"`python docs/_extension/{drawn[name]} {name}`", "",
                f"```{{literalinclude}} _extension/{drawn[name]}", f":pyobject: {name}", "```", "",
            ]  # fmt: skip
    cells += [""] * (-len(cells) % COLUMNS)
    rows = [f"| {' | '.join(cells[k : k + COLUMNS])} |" for k in range(0, len(cells), COLUMNS)]
    return "\n".join([
        "# Gallery", "", "A picture leads to what made it: to the code below, or to the section with its command.", "",
        "|" + " |" * COLUMNS, "|" + "---|" * COLUMNS, *rows, "", "## Code of the pictures of parts", "", *code,
    ])  # fmt: skip


def write_page(app: Sphinx) -> None:
    """Writes the page if it differs, so that an unchanged one is not built again."""
    path, text = Path(app.srcdir) / "gallery.md", page(Path(app.srcdir))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True}
