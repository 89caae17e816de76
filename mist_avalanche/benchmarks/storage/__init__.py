"""Datasets on disk: which there are, and how copies are found, unpacked, checked and read."""
