"""Every row of docs/reliability.md, tried; tests/reliability.py says how."""

import pytest
from reliability import ALL, DOCUMENT, document, message


@pytest.mark.parametrize(("table", "name"), ALL)
def test_says_what_is_wrong(table, name):
    said = message(table, name)
    assert said, "nothing went wrong"
    assert "Traceback" not in said
    assert len(said) > 25


def test_document_is_what_was_said():
    assert DOCUMENT.read_text() == document(), "run: python tests/reliability.py"
