"""Measuring one operation in this process: rows printed as they come, then table, plot and JSON."""

import importlib
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import machine, report
from benchmarks.case import Case, Row, Settings, failed, measure


def rows_of(module: ModuleType, settings: Settings) -> list[Row]:
    """All rows of an operation, printed as they come."""
    rows: list[Row] = []
    with torch.no_grad():
        for entry in module.cases(settings):
            try:
                more = measure(entry, settings) if isinstance(entry, Case) else [entry]
            except Exception as error:
                if not settings.keep_going:
                    raise
                more = [failed(entry, error)]
            for row in more:
                print(report.line(row), flush=True)
            rows += more
    return rows


def run(
    name: str, out: Path, quick: bool = False, threads: int = 2, device: str = "cpu", **options: Any
) -> report.Report:
    """Measures an operation and writes NAME.md, NAME.png and NAME.json into `out`; `options` are of `Settings`."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks: --device is cuda, but torch sees no CUDA device")
    torch.set_num_threads(threads)
    module = importlib.import_module(f"benchmarks.operations.{name}")
    settings = Settings(quick=quick, device=device, threads=threads, **options)
    print(f"\n{module.TITLE}", flush=True)
    began = time.perf_counter()
    rows = rows_of(module, settings)
    result = report.Report(
        name=name,
        title=module.TITLE,
        text=" ".join(module.TEXT.split()),
        machine=machine.description(threads, device),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        quick=quick,
        seconds=time.perf_counter() - began,
        rows=rows,
    )
    report.write(result, out)
    print(f"{name}: {result.seconds:.0f} s, {out / name}.md, .png and .json", flush=True)
    return result
