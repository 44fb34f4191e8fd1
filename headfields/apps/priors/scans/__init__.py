"""Scans of many people and expressions, and the sampling of training points from them."""

from headfields.apps.priors.scans.batch import PointCounts, ScanBatch, ScanSet
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.scans.nphm import NphmScans, nphm_to_raw, read_nphm
from headfields.apps.priors.scans.points import PointScans
from headfields.apps.priors.scans.store import load_scans, save_scans

__all__ = [
    "MeshScans",
    "NphmScans",
    "PointCounts",
    "PointScans",
    "ScanBatch",
    "ScanSet",
    "load_scans",
    "nphm_to_raw",
    "read_nphm",
    "save_scans",
]
