"""Sphinx settings: Markdown pages, a notebook that is run, and the API reference from the docstrings. No network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extension"), str(HERE.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))  # notebooks

import headfields  # noqa: E402  (from this folder's parent, installed or not)

project = "headfields"
author = "the headfields contributors"
project_copyright = "the headfields contributors, Apache-2.0"
release = version = headfields.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "api", "gallery"]
exclude_patterns = ["_build", "_extension", "_pages", "README.md"]  # README.md is included by index.md
html_theme = "furo"
html_title = f"headfields {release}"
# Versions that lie beside this one on a server, newest first: HEADFIELDS_DOCS_VERSIONS="0.5.0 0.4.1". The folder of
# each is its name, and the list of them stands below the search; without it, the title alone names the version.
html_context = {"versions": os.environ.get("HEADFIELDS_DOCS_VERSIONS", "").split()}
templates_path = ["_extension/templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "versions.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["_pages"]  # an avatar's page, which docs/page.md shows

# Markdown
myst_enable_extensions = []  # plain Markdown: a dollar sign is a dollar sign
myst_heading_anchors = 3

# Notebooks are run at every build, in a temporary folder; HEADFIELDS_DOCS_NOTEBOOKS=off leaves them out of a quick one.
nb_execution_mode = "off" if os.environ.get("HEADFIELDS_DOCS_NOTEBOOKS") == "off" else "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 900
nb_merge_streams = True

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # a part's forward, bounds, ... are described once, at its base class
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
default_role = "name"  # of the extension `api`: a link where the name is public, code otherwise
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80


def join_readmes(app, docname, source):
    """The page `start` is the project's README, and `index` begins with this folder's; links between them hold."""
    readme = {"start": HERE.parent / "README.md", "index": HERE / "README.md"}.get(docname)
    text = source[0]
    if readme is not None:
        app.env.note_dependency(str(readme))
        text = readme.read_text(encoding="utf-8") + ("" if docname == "start" else f"\n{text}")
    if docname == "start":
        text = text.replace("](docs/README.md", "](index.md").replace("](docs/", "](")
    source[0] = text.replace("](../README.md", "](start.md").replace("](README.md", "](index.md")


def setup(app):
    app.connect("source-read", join_readmes)
