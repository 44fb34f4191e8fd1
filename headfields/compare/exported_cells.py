"""The figures of finished cells alone, without what was trained: kept in a repository, a study goes on elsewhere."""

import shutil
from pathlib import Path

from headfields.compare.cells import Cell, trials_of
from headfields.compare.running import done_cells, nothing_done
from headfields.compare.study import Study


def export_figures(study: Study, out: Path | str, folder: Path | str, device: str = "cpu") -> int:
    """Copies result.json and the report's pictures of every finished cell of a study; the number of cells.

    The copy has the shape of OUT, so that it may also be copied into another OUT by hand.

    Raises:
        ValueError: no cell is finished.
    """
    out, folder = Path(out), Path(folder)
    done = [cell for cell in _cells(study, out, device) if cell.done(out) is not None]
    if not done:
        raise ValueError(nothing_done(out, device))
    for cell in done:
        _copy(cell, out, folder)
    return len(done)


def import_figures(study: Study, folder: Path | str, out: Path | str, device: str = "cpu") -> tuple[int, int]:
    """Copies the finished cells of a study from a folder that `export_figures` wrote, where OUT lacks them.

    A cell belongs to the study if its key does: the code, options, data and versions that made it are those of today.

    Returns:
        How many were copied, and how many of the folder are none of this study's.

    Raises:
        FileNotFoundError: the folder has no cells.
    """
    folder, out = Path(folder), Path(out)
    if not (folder / "cells").is_dir():
        raise FileNotFoundError(f"{folder} has no folder cells; name one that --export wrote")
    imported, keys = 0, set()
    for cells in (trials_of(study, device), None):  # which cells there are depends on what trials chose
        for cell in _cells(study, out, device) if cells is None else cells:
            keys.add(cell.key())
            if cell.done(out) is None and cell.done(folder) is not None:
                _copy(cell, folder, out)
                imported += 1
    return imported, sum(path.parent.name not in keys for path in (folder / "cells").glob("*/result.json"))


def _cells(study: Study, out: Path, device: str) -> list[Cell]:
    return [*trials_of(study, device), *done_cells(study, out, device)]


def _copy(cell: Cell, source: Path, target: Path) -> None:
    cell.folder(target).mkdir(parents=True, exist_ok=True)
    pictures = sorted(cell.folder(source).glob("*.png"))
    for path in (*pictures, cell.folder(source) / "result.json"):  # the result last: with it the cell is done
        shutil.copyfile(path, cell.folder(target) / path.name)
