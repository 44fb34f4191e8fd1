"""A procedural upper body in SMPL-X's file format."""
