"""Synthetic scans of random people and expressions, for training a prior."""

from headfields.synthetic.scans.generate import generate_scans
from headfields.synthetic.scans.sampler import HeadSampler

__all__ = [
    "HeadSampler",
    "generate_scans",
]
