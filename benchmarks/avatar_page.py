"""Pictures of an avatar's page in headless Chromium, which draws WebGL in software: how long one takes.

`python -m benchmarks.avatar_page PAGE.html [PAGE.html ...]` opens each page and draws its clip, one picture after the
other has been read back, in squares of `--sizes` pixels. For each it says: milliseconds that the worker takes to pose
and to project (the least of all pictures), and for a whole picture the least and the median. Processor milliseconds a
picture are those of all of the browser's processes, whatever else the machine does meanwhile.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.browser import chromium

PICTURES = 25
DRAW = """
const [size, count, done] = arguments, page = window.headfields;
(async () => {
  if (!(await page.ready)) throw new Error("no WebGL2");
  const given = page.info.camera, scale = size / Math.max(given.width, given.height), spent = [], least = {};
  const lens = given.lens.map((x, k) => (k < 6 ? x * scale : x));
  const rows = (list, n) => [...Array(list.length / n).keys()].map((i) => list.slice(n * i, n * i + n));
  page.setCamera({ world_to_camera: rows(given.view, 4), intrinsics: rows(lens, 3), size: [size, size] });
  await page.read();
  for (let k = 0; k < count + 3; k++) {
    const start = performance.now();
    player.go(k % Math.max(page.info.clip.frames, 1));
    await page.read();
    if (k < 3) continue; // the compiler warms up
    spent.push(performance.now() - start);
    for (const [name, value] of Object.entries(page.spent)) least[name] = Math.min(least[name] ?? Infinity, value);
  }
  spent.sort((a, b) => a - b);
  return { ...least, least: spent[0], median: spent[spent.length >> 1] };
})().then(done, (error) => done({ error: String(error) }));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE.html")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--save", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "pages": {}}
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder), (700, 500)) as browser:
        browser.set_script_timeout(600)
        for page in arguments.pages:
            browser.get(page.resolve().as_uri())
            for size in arguments.sizes:
                before = processor_seconds(browser.service.process.pid)
                measured = browser.execute_async_script(DRAW, size, PICTURES)
                if "error" in measured:
                    raise SystemExit(f"{page}: {measured['error']}")
                spent = processor_seconds(browser.service.process.pid) - before
                measured["processor"] = 1e3 * spent / (PICTURES + 3)
                figures["pages"][f"{page.name} {size}"] = measured
                print(f"{page.name}, {size} x {size}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in measured.items()))
    if arguments.save is not None:
        arguments.save.write_text(json.dumps(figures, indent=1))


def processor_seconds(root: int) -> float:
    """Processor time of a process and of all below it (Linux)."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
        times[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below, added = {root}, True
    while added:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        added = bool(more)
        below |= more
    return sum(times.get(pid, 0.0) for pid in below)


if __name__ == "__main__":
    main()
