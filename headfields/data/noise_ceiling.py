"""The PSNR that noise in a capture's images leaves to an avatar that is right: `noise.json` in the capture's folder.

An image is the truth plus noise of a variance σ². The truth itself differs from the image by σ² in the mean, so no
prediction has more than −10 log₁₀ σ² dB. Two images of the same moment with noise of their own differ by 2 σ², which is
how σ² is known where a capture is drawn. It is not estimated from single images: hair and pores look like noise.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from headfields.files.atomic import write_text
from headfields.files.reading import read_json

FILE = "noise.json"


def write_noise_ceiling(folder: Path | str, decibels: Mapping[str, float], source: str) -> None:
    """Writes the ceiling of a capture.

    Args:
        folder: the capture's.
        decibels: by measure: "psnr" of the image, "psnr_head", and so on.
        source: where the figures are from.
    """
    figures = {name: round(value, 2) for name, value in decibels.items()}
    write_text(Path(folder) / FILE, json.dumps({**figures, "source": source}, indent=1) + "\n")


def noise_ceiling(folder: Path | str) -> dict[str, float | str]:
    """The ceiling of a capture in dB by measure, and its `source`; empty where none is known.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, float | int | str) for v in content.values()):
        raise ValueError(f'{path}: expected decibels by measure, such as {{"psnr": 35.3, "source": "..."}}')
    return dict(content)
