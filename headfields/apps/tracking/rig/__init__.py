"""Tracking of a rigged, textured scan: pose, expression and light from colors, outlines and landmarks."""
