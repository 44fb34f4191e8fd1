"""Decoders: features and directions to density or signed distance, and colour."""

from headfields.decoders.nerf import NeRFDecoder

__all__ = ["NeRFDecoder"]
