"""Scenes of synthetic captures: geometry, materials, motion and lighting of a head, and their ray casting."""
