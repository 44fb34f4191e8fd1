"""Comparisons of primitives on equal footing: studies, their cells, the statistics of paired differences, reports."""

from headfields.compare.running import run_study
from headfields.compare.study import Row, Study

__all__ = ["Row", "Study", "run_study"]
