"""Synthetic scans of random people and expressions, for training a prior."""

from headfields.synthetic.scans.draws import HeadDraws
from headfields.synthetic.scans.generate import generate_scans

__all__ = [
    "HeadDraws",
    "generate_scans",
]
