"""Anchors: points on a head at which local networks sit, predicted from a person's code, and where to put them."""

from headfields.anchors.placement import head_anchors
from headfields.anchors.prediction import Anchors

__all__ = ["Anchors", "head_anchors"]
