"""What has nothing to do with learning: checks, files, signals, processes, random numbers.

Private to the package; every other room may come in.
"""
