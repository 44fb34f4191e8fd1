"""The results as a page."""

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """The page of a run: device, what failed, checks, tests, ceilings, graphs, programs, models, and where operations
    stand beside their peers."""
    environment = results.get("environment", {}).get("environment", {})
    lines = [f"# {environment.get('device', 'A device')}", ""]
    packages = environment.get("packages", {})
    lines += [", ".join(f"{name} {version}" for name, version in packages.items()), ""]
    lines += [f"`python -m benchmarks.gpu`, {results.get('date', '')}.", ""]
    if results.get("small"):
        lines += ["**With `--small`: the sizes are tiny and these figures mean nothing.**", ""]
    for name, part in results["parts"].items():
        said = part["state"] if part["state"] != "done" else f"{part['seconds']:.0f} s"
        lines.append(f"- {name}: {'left out, ' + part['skipped'] if part.get('skipped') else said}")
    lines += ["", *_failed(results), *_environment(environment), *_checks(environment)]
    lines += [*_tests(results.get("tests", {})), *_ceilings(results.get("ceilings", {}).get("ceilings", {}))]
    lines += [*_graphs(results), *_items("Programs", results.get("programs", {})), *_models(results)]
    lines += _items("Under compute-sanitizer", results.get("sanitizer", {}))
    return "\n".join([*lines, *_operations(results.get("operations", {}))]) + "\n"


def _failed(results: dict[str, Any]) -> list[str]:
    """What did not end well, in all parts, with what it said when each launch was waited for."""
    lines = []
    for part in results["parts"]:
        for item, row in results.get(part, {}).items():
            if row.get("state", "done") != "done":
                blocking = f"; with CUDA_LAUNCH_BLOCKING=1: {_cell(row['blocking'])}" if "blocking" in row else ""
                lines.append(f"- {part}, {item}: {_cell(row['state'])}{blocking}")
    return ["## What failed", "", *lines, ""] if lines else []


def _environment(environment: dict[str, Any]) -> list[str]:
    rows = [*environment.get("backends", []), *environment.get("nvidia-smi", "").splitlines()]
    return ["## Environment", "", "```text", *rows, "```", ""] if rows else []


def _checks(environment: dict[str, Any]) -> list[str]:
    checks, failed = environment.get("checks", []), environment.get("failed", [])
    said = "these are wrong or impossible:" if failed else "all agree with their definitions."
    details = [f"- {check['name']}: {check['detail']}" for check in checks if not check["passed"]]
    return ["## Kernels", "", f"{len(checks)} checks, {said}", "", *details, *[""] * bool(details)] if checks else []


def _tests(files: dict[str, Any]) -> list[str]:
    """What the tests marked `cuda` said, and which failed."""
    if not files:
        return []
    words = ("passed", "failed", "error", "errors", "skipped")
    sums = {word: sum(row.get(word, 0) for row in files.values()) for word in words}
    said = ", ".join(f"{count} {word}" for word, count in sums.items() if count) or "none ran"
    failures = [name for row in files.values() for name in row.get("failures", [])]
    return ["## Tests on CUDA", "", f"{said}, in {len(files)} files.", "", *(f"- {name}" for name in failures), ""]


def _ceilings(figures: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {value:.4g} |" for name, value in figures.items() if name not in ("state", "seconds")]
    return ["## Ceilings", "", "| | |", "|---|---|", *rows, ""] if rows else []


def _graphs(results: dict[str, Any]) -> list[str]:
    rows = results.get("graphs", {}) | results.get("capture_failures", {})
    if not rows:
        return []
    lines = ["## Steps from a graph, and without one", "", "| | a graph | losses apart |", "|---|---|---|"]
    for name, row in rows.items():
        apart = f"{100 * row['apart']:.3f} %" if "apart" in row else ""
        said = (row["no graph"] or "yes") if "no graph" in row else row["state"]
        lines.append(f"| {name} | {_cell(said)} | {apart} |")
    return [*lines, ""]


def _items(title: str, rows: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {_cell(row['state'])} ({row.get('seconds', 0):.0f} s)" for name, row in rows.items()]
    return [f"## {title}", "", *lines, ""] if rows else []


def _models(results: dict[str, Any]) -> list[str]:
    rows = results.get("models", {})
    if not rows:
        return []
    lines = ["## Models", "", "| | step, ms | kernels | busy, ms | a graph | 512² frames a second | PSNR |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        if "step" not in row:
            lines.append(f"| {name} | {_cell(row['state'])} | | | | | |")
            continue
        step, profile = row["step"], row.get("profile of a step", {})
        cells = [
            f"{step.get('median ms', step.get('mean ms')):.2f}",
            f"{profile['launches']:.0f}" if profile else "",
            f"{profile['busy ms']:.2f}" if profile else "",
            (row["no graph"] or "yes") if "no graph" in row else "",
            f"{row['frame of 512 x 512']['frames a second']:.1f}" if "frame of 512 x 512" in row else "",
            _quality(row["quality"]) if "quality" in row else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _quality(quality: dict[str, Any]) -> str:
    after = "" if quality["seconds"] is None else f"{quality['seconds']:.0f} s, "
    return f"{quality['psnr']:.2f} dB after {after}{quality['steps']} steps"


def _operations(operations: dict[str, Any]) -> list[str]:
    if not operations:
        return []
    lines = ["## Operations", "", "| | beside | ours, ms | ours is |", "|---|---|---|---|"]
    for name, found in operations.items():
        if "rows" not in found:
            lines.append(f"| {name} | {_cell(found['state'])} | | |")
            continue
        ours: float | None = None
        for row in found["rows"]:
            size = ", ".join(f"{value:,} {unit}" for unit, value in row["size"].items())
            if row["contestant"] == "headfields":
                ours = row["milliseconds"]
                said = _cell(row["note"]) if ours is None else f"{ours:.3g}"
                lines.append(f"| {name}: {row['label']}, {size} | | {said} | |")
            elif row["ratio"] is not None:
                lines.append(f"| | {row['contestant']} | | {row['ratio']:.2f}× |")
            elif row["note"]:
                lines.append(f"| | {row['contestant']}: {_cell(row['note'])} | | |")
    return [*lines, ""]


def _cell(text: str) -> str:
    """An error's first line, which alone fits a table."""
    return (text.splitlines() or [""])[0].replace("|", "\\|")
