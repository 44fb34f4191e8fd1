"""`headfields evaluate`."""

import json
import math
from pathlib import Path
from typing import Any

from headfields.cli import runs
from headfields.cli.errors import CommandError


def evaluate(
    path: Path,
    split: str,
    capture_path: Path | None,
    background: float | int,
    limit: int | None,
    memory: int,
    device_name: str,
    refine: bool = False,
    refine_expression: bool = False,
) -> None:
    """Measures a run; prints the means as one JSON object and writes all to metrics.json."""
    from headfields.training import evaluation
    from headfields.training.frames import choose_frames

    if not 0 <= background <= 1:
        raise CommandError(f"--background is {background}; expected a gray level in [0, 1]")
    run, config = runs.open_run(path)
    device = runs.choose_device(device_name)
    avatar = runs.load_avatar(run, config, memory).to(device)
    capture = runs.capture_of(config, capture_path, memory)
    frames = runs.spread(choose_frames(capture, split), limit)
    refinement = {"expression": refine_expression} if refine or refine_expression else False
    result = evaluation.evaluate(
        avatar, capture, background=background, frames=frames, device=device, bar=True, refine=refinement
    )
    result = _plain(result)
    result["split"] = split
    run.write_metrics({"capture": str(capture_path or config["capture"]), **result})
    print(json.dumps({key: value for key, value in result.items() if key != "per_frame"}, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no infinity, which is the PSNR of equal images: null stands for it."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
