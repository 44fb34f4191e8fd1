"""Scans of many people and expressions, and the sampling of training points from them."""

from headfields.priors.scans.batch import PointCounts, ScanBatch, ScanSet
from headfields.priors.scans.meshes import MeshScans
from headfields.priors.scans.nphm import NphmScans, nphm_to_raw, read_nphm
from headfields.priors.scans.points import PointScans
from headfields.priors.scans.store import load_scans, save_scans

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
