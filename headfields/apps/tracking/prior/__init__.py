"""Tracking with a prior of heads (MonoNPHM): its codes and pose fitted to each frame, then to all frames together."""
