"""Scans of many people and expressions, which a prior is trained on: drawn, read, and sampled."""

from headfields.data.scans.batch import PointCounts, ScanBatch, ScanSet
from headfields.data.scans.draws import HeadDraws
from headfields.data.scans.generate import generate_scans
from headfields.data.scans.meshes import MeshScans
from headfields.data.scans.nphm import NphmScans, nphm_to_raw, read_nphm
from headfields.data.scans.points import PointScans
from headfields.data.scans.store import load_scans, save_scans

__all__ = [
    "HeadDraws",
    "MeshScans",
    "NphmScans",
    "PointCounts",
    "PointScans",
    "ScanBatch",
    "ScanSet",
    "generate_scans",
    "load_scans",
    "nphm_to_raw",
    "read_nphm",
    "save_scans",
]
