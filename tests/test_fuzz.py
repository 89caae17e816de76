"""Some hundred files that are damaged or made up; tests/fuzz.py gives any number."""

import pytest
from fuzz import READERS, Readers, tried

INPUTS = {"checkpoint_content": 60, "tuning_content": 60}


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return Readers(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", READERS)
def test_what_is_wrong_is_refused(readers, name):
    results = [tried(readers, name, seed) for seed in range(INPUTS.get(name, 300))]
    assert {*results} <= {"taken", "refused"}
    assert results.count("refused") > len(results) // 3
