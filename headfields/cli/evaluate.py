"""`headfields evaluate`: image metrics of a run on held-out frames."""

import json
import math
from typing import Any

from headfields.cli.argument_types import OptionalFolder, OptionalInt, Run
from headfields.cli.errors import CommandError


def evaluate(
    run: Run,
    /,
    split: str = "test",
    capture: OptionalFolder = None,
    background: float = 1.0,
    limit: OptionalInt = None,
    regions: bool = False,
    refine: bool = False,
    refine_expression: bool = False,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render held-out frames and compare them with the capture: PSNR and SSIM, over the image and the head.

    The last line on stdout is one JSON object: psnr, ssim, psnr_head, ssim_head, frames, seconds_per_frame, and
    lpips and flip where their packages are installed. RUN/metrics.json has the same for every frame. A run that is
    still training, or was cut off, is measured at its last checkpoint.

    Args:
        run: Folder of the run.
        split: Which frames: test, val, train or all.
        capture: Another capture than the run was trained on (same topology).
        background: Gray behind truth and rendering, in [0, 1]. Figures over different backgrounds do not compare.
        limit: At most this many frames, evenly spaced over the split.
        regions: Also measure mouth, eyes, hair and the other regions of the capture's labels.
        refine: Also fit each frame's head pose (and latent codes) to its image and measure again: psnr_refined and so
            on, in addition to the figures as tracked. These use the test image: they measure quality without
            misalignment, not prediction.
        refine_expression: Also fit the expression coefficients, where the capture says how the mesh follows them
            (blendshapes.npz).
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import open_run
    from headfields.training import evaluation
    from headfields.training.frames import choose_frames

    if not 0 <= background <= 1:
        raise CommandError(f"--background is {background}; expected a gray level in [0, 1]")
    folder, config = open_run.open_run(run)
    torch_device = open_run.choose_device(device)
    avatar = open_run.open_avatar(folder, config, memory).to(torch_device)
    open_run.warn_of_frame_codes(avatar, capture)
    source = open_run.capture_of(config, capture, memory)
    frames = open_run.at_most(choose_frames(source, split), limit)
    refinement = {"expression": refine_expression} if refine or refine_expression else False
    result = evaluation.evaluate(
        avatar, source, background=background, frames=frames, device=torch_device, bar=True, refine=refinement,
        regions=regions,
    )  # fmt: skip
    result = _finite(result)
    result["split"] = split
    folder.write_metrics({"capture": str(capture or config["capture"]), **result})
    print(json.dumps({key: value for key, value in result.items() if key != "per_frame"}, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for infinity, the PSNR of equal images, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
