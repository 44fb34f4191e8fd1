"""Benchmarks of the library and its peers, in the same run.

`python -m benchmarks` measures every operation in a process of its own and writes, for each, a table (Markdown), a
plot (PNG) and the figures (JSON); `python -m benchmarks.page` makes the documentation's page from the JSON.

- `operations/`: one file an operation. `cases(settings)` yields its `Case`s.
- `peers/`: one file a peer library, called through its best documented interface.
- `case.py`: the case, and `measure`, which turns it into table rows by `timing.py` and `memory.py`.
- `report.py`: rows to table, plot and JSON. `machine.py`: its description, and equal threads for all libraries.
"""
