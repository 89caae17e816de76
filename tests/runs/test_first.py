"""A run of the first experiences only."""

from __future__ import annotations

import pytest

from mist_avalanche.runs.config import RunConfig
from mist_avalanche.runs.runner import run


def test_the_first_experiences_are_those_of_the_whole_run(tmp_path):
    config = RunConfig(experiences=10, order_seed=3)
    whole = run(config, tmp_path / "whole", progress=False)
    part = run(RunConfig(experiences=10, order_seed=3, first=2), tmp_path / "part", progress=False)
    assert part["accuracy"] == whole["accuracy"][:2]
    assert part["test_images"] == whole["test_images"][:2]
    assert part["classes_seen"] == whole["classes_seen"][:2]
    assert part["config"]["first"] == 2
    assert "first" not in whole["config"]  # so that results of earlier versions are the same
    assert run(config, tmp_path / "whole", resume=True, progress=False) == whole


@pytest.mark.parametrize("first", [0, 11, -1])
def test_no_such_first_experiences(tmp_path, first):
    with pytest.raises(ValueError, match=f"Expected the first 1 to 10 experiences, got {first}"):
        run(RunConfig(first=first), tmp_path, progress=False)
