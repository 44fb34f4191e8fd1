"""Synthetic scans of random people and expressions, for training a prior."""
