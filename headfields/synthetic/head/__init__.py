"""A procedural head in FLAME's file format: shape, expressions, joints and texture."""
