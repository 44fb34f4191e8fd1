"""Every picture that a page shows is in the repository, and every picture in the repository is shown."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")])
SHOWN = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def shown() -> dict[Path, Path]:
    """Pictures, with a page that shows each."""
    pages = [page for page in PAGES if "_build" not in page.parts]
    return {(page.parent / name).resolve(): page for page in pages for name in SHOWN.findall(page.read_text())}


def test_pictures_of_pages_are_there():
    missing = [f"{page.relative_to(ROOT)}: {picture}" for picture, page in shown().items() if not picture.is_file()]
    assert shown() and not missing


def test_no_picture_is_left_over():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: which files are in the repository is not known")
    listed = subprocess.run(["git", "ls-files", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = {ROOT / name for name in listed.stdout.split() if name.endswith((".png", ".jpg", ".webp", ".gif"))}
    assert kept and not {path.relative_to(ROOT) for path in kept if path.resolve() not in shown()}
