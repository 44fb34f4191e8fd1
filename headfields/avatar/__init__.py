"""What composes an avatar: of a field, of Gaussians, what both share, and their file."""
