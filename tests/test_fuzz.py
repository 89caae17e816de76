import pytest
from fuzz import READERS, fuzz

INPUTS = {"checkpoint, any content": 50, "checkpoint of a tuning, any content": 40}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_refused_with_a_message(name, tmp_path):
    counts, others = fuzz(name, tmp_path, seed=0, inputs=INPUTS.get(name, 300))
    assert others == {}
    assert counts["refused"] > counts["inputs"] / 5
