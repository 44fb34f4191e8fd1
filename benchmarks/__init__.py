"""Measurements: what the library reaches, beside what it is compared with, in the same run.

`python -m benchmarks` measures every operation in a process of its own and writes, for each, a table (Markdown), a
plot (PNG) and the figures (JSON); `python -m benchmarks.page` makes the page of the documentation from the last.

- `operations/`: one file an operation. `cases(settings)` yields its `Case`s.
- `peers/`: one file a library that is compared with; how it is called, at its best documented interface.
- `case.py`: what a case is, and `measure`, which makes table rows of it. `timing.py`, `memory.py`: how.
- `report.py`: rows to table, plot and JSON. `machine.py`: what it ran on, and equal threads for all.
"""
