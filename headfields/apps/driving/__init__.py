"""A head driven by a face: ARKit's 52 shapes from a file or a stream, onto heads of any kind (docs/driving.md)."""
