"""A short form of tests/performance/soak.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "performance"))
from soak import soak


@pytest.mark.parametrize("name", ["naive"])
def test_memory_and_open_files_stay_as_they_are(name):
    seen = soak(name, 30)
    (early, files), (last, files_last) = seen[19], seen[-1]
    assert last < 1.05 * early
    assert files_last <= files
