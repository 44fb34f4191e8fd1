"""The results as a page."""

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """The page of a run: device, checks, tests, ceilings, models, and where operations stand beside their peers."""
    environment = results.get("environment", {})
    lines = [f"# {environment.get('device', 'A device')}", ""]
    packages = environment.get("packages", {})
    lines += [", ".join(f"{name} {version}" for name, version in packages.items()), ""]
    lines += [f"`python -m benchmarks.gpu`, {results.get('date', '')}.", ""]
    if results.get("small"):
        lines += ["**With `--small`: the sizes are tiny and these figures mean nothing.**", ""]
    for name, part in results["parts"].items():
        state = part["state"] if part["state"] != "done" else f"{part['seconds']:.0f} s"
        lines.append(f"- {name}: {state}")
    lines += ["", *_environment(environment), *_checks(environment), *_tests(results.get("tests", {}))]
    lines += [*_table("Ceilings", results.get("ceilings", {})), *_models(results)]
    return "\n".join([*lines, *_operations(results.get("operations", {}))]) + "\n"


def _environment(environment: dict[str, Any]) -> list[str]:
    rows = [*environment.get("backends", []), *environment.get("nvidia-smi", "").splitlines()]
    return ["## Environment", "", "```text", *rows, "```", ""] if rows else []


def _checks(environment: dict[str, Any]) -> list[str]:
    checks, failed = environment.get("checks", []), environment.get("failed", [])
    said = "these are wrong or impossible:" if failed else "all agree with their definitions."
    details = [f"- {check['name']}: {check['detail']}" for check in checks if not check["passed"]]
    return ["## Kernels", "", f"{len(checks)} checks, {said}", "", *details, *[""] * bool(details)] if checks else []


def _tests(tests: dict[str, Any]) -> list[str]:
    """What the tests marked `cuda` said, and which failed."""
    if not tests:
        return []
    counts = [f"{tests[word]} {word}" for word in ("passed", "failed", "error", "errors", "skipped") if word in tests]
    said = tests.get("skipped") if "exit" not in tests else ", ".join(counts) or f"none ran (exit {tests['exit']})"
    return ["## Tests on CUDA", "", f"{said}.", "", *(f"- {name}" for name in tests.get("failures", [])), ""]


def _table(title: str, figures: dict[str, float]) -> list[str]:
    if not figures:
        return []
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {k} | {v:.4g} |" for k, v in figures.items()), ""]


def _models(results: dict[str, Any]) -> list[str]:
    rows = {name: row for name, row in results.get("models", {}).items() if name != "capture"}
    if not rows:
        return []
    lines = ["## Models", "", "| | step, ms | kernels | busy, ms | a graph | 512² frames a second | PSNR |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {_cell(row['error'])} | | | | | |")
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
    for name, rows in operations.items():
        if "error" in rows:
            lines.append(f"| {name} | {_cell(rows['error'])} | | |")
            continue
        ours: float | None = None
        for row in rows:
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
