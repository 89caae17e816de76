"""Every cell of the table of benchmarks in docs/compatibility.md; tests/kinds.py says what runs."""

import pytest
from kinds import CELLS, outcome


@pytest.mark.parametrize(("kind", "host", "mist"), CELLS)
def test_runs_and_keeps_its_promise(kind, host, mist):
    assert outcome(kind, host, mist) == "runs"
