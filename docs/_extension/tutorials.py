"""Outputs of the tutorials: `python docs/_extension/tutorials.py [NAME ...]` runs them and keeps what their cells show.

Sites that show notebooks drop pictures and videos within HTML, so that grids and clips are kept as images (a clip as an
animated PNG). Each cell notes which code it belongs to; `tests/docs/test_notebooks.py` compares the note with the code.
Needs `pip install headfields[docs]`, and a minute or two for each.
"""

import base64
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
ROOT = FOLDER.parents[1]
NOTE = "headfields_code"
"""Key of a cell's metadata."""
_BEFORE = """
import sys
sys.path.insert(0, {here!r})
import tutorials
tutorials.show_as_images(get_ipython())
"""


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if len(sys.argv) < 2 or path.stem in sys.argv[1:]:
            stored(path)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB", flush=True)


def stored(path: Path) -> None:
    """Runs a notebook in an empty folder, and writes it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(path, as_version=4)
    first = nbformat.v4.new_code_cell(_BEFORE.format(here=str(Path(__file__).parent)))
    run = nbformat.v4.new_notebook(cells=[first, *notebook.cells], metadata=notebook.metadata)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(run, timeout=7200, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        text = json.dumps(run.cells[1:])
        assert folder not in text and str(ROOT) not in text, f"{path.name} shows a path of this machine"
    code = [cell for cell in run.cells[1:] if cell.cell_type == "code"]
    for number, (cell, note) in enumerate(zip(code, notes(["".join(cell.source) for cell in code]), strict=True)):
        cell.outputs = [part for output in merged(cell.outputs) for part in without_html_images(output)]
        cell.execution_count = number + 1
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = number + 1
        cell.metadata = {NOTE: note}
    notebook.cells = run.cells[1:]
    nbformat.write(nbformat.from_dict(json.loads(json.dumps(notebook))), path)


def notes(sources: Sequence[str]) -> list[str]:
    """For each code cell a hash of its code and of all before it, on which its output depends."""
    total, out = hashlib.sha256(), []
    for source in sources:
        total.update(source.encode() + b"\0")
        out.append(total.hexdigest()[:16])
    return out


def merged(outputs: Sequence[Any]) -> list[Any]:
    """The outputs with the lines of one stream as one, and without the progress that bars write to stderr."""
    out: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stderr" and "\r" in output["text"]:
            continue
        if output["output_type"] == "stream" and out and out[-1].get("name") == output["name"]:
            out[-1]["text"] += output["text"]
        else:
            out.append(output)
    return out


def without_html_images(output: Any) -> list[Any]:
    """An output as a picture, smaller, and a table of its own without pictures."""
    data = output.get("data", {})
    if "image/png" not in data:
        return [output]
    kind, content = smaller(base64.b64decode(data.pop("image/png")))
    picture = {"output_type": "display_data", "metadata": {}, "data": {kind: base64.b64encode(content).decode()}}
    table = re.sub(r"(<br>)?<img[^>]*>", "", data.pop("text/html", ""))
    if not table:
        return [{**picture, "data": {**picture["data"], "text/plain": data.get("text/plain", "")}}]
    return [picture, {**output, "data": {"text/html": table, **data}}]


def smaller(content: bytes) -> tuple[str, bytes]:
    """A picture as a PNG of 256 colors or a JPEG, whichever takes less; animations stay."""
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    if getattr(image, "n_frames", 1) > 1:
        return "image/png", content
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.convert("RGBA").getchannel("A"))
    png, jpeg = io.BytesIO(), io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(png, "png", optimize=True)
    flat.save(jpeg, "jpeg", quality=85, optimize=True)
    return min([("image/png", png.getvalue()), ("image/jpeg", jpeg.getvalue())], key=lambda each: len(each[1]))


def show_as_images(shell: Any) -> None:
    """Lets a notebook's kernel show grids and clips as images."""
    from headfields.viz.clips import Clip, Grid

    formatters = shell.display_formatter.formatters
    for kind in (Clip, Grid):
        formatters["text/html"].for_type(kind, lambda value: None)
        formatters["image/png"].for_type(kind, sheet)


def sheet(value: Any) -> bytes:
    """A grid or a clip as a PNG, animated if anything moves."""
    from PIL import Image, ImageDraw, ImageFont

    from headfields.viz.clips import Clip, Grid

    grid = Grid((value,)) if isinstance(value, Clip) else value
    font, gap = ImageFont.load_default(12), 4
    count = max([len(tile.frames) for tile in grid.tiles if isinstance(tile, Clip)], default=1)
    fps = next((tile.fps for tile in grid.tiles if isinstance(tile, Clip)), 1)

    def scaled(tile: Any, frame: int) -> Any:
        image = Image.fromarray(tile.frames[frame % len(tile.frames)] if isinstance(tile, Clip) else tile)
        if grid.width is None:
            return image
        return image.resize((grid.width, round(image.height * grid.width / image.width)), Image.Resampling.BICUBIC)

    def lines(caption: str, width: int) -> list[str]:
        out = [""]
        for word in caption.split():
            longer = f"{out[-1]} {word}".strip()
            if font.getlength(longer) <= width or not out[-1]:
                out[-1] = longer
            else:
                out.append(word)
        return out

    pictures = []
    for frame in range(count):
        tiles = [scaled(tile, frame) for tile in grid.tiles]
        width = max(tile.width for tile in tiles)
        captions = [lines(caption, width) for caption in grid.captions] or [[]] * len(tiles)
        above = 15 * max(len(caption) for caption in captions)
        height = max(tile.height for tile in tiles) + above
        columns = min(grid.columns, len(tiles))
        rows = -(-len(tiles) // columns)
        whole = Image.new("RGB", (columns * (width + gap), rows * (height + gap)), "white")
        draw = ImageDraw.Draw(whole)
        for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            left, top = index % columns * (width + gap), index // columns * (height + gap)
            for row, line in enumerate(caption):
                draw.text((left, top + 15 * row), line, fill="black", font=font)
            whole.paste(tile, (left, top + above))
        pictures.append(whole if count == 1 else whole.quantize(64, dither=Image.Dither.NONE).convert("RGB"))
    out = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / fps), "loop": 0}
    pictures[0].save(out, "png", optimize=True, **(more if count > 1 else {}))
    return out.getvalue()


if __name__ == "__main__":
    main()
