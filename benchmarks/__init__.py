"""Measurements: what the library reaches, beside what it is compared with, in the same run."""
