"""Layouts of captures on disk: readers and writers, one file per layout."""
