"""Faces in ARKit's 52 shapes: names, motions and their files (docs/driving.md)."""
