import doctest

import pytest

from mist_avalanche.strategies import names
from mist_avalanche.strategies.names import ABLATIONS


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("simplecil", "SimpleCIL"),
        ("simplecil+mist", "SimpleCIL + MIST"),
        ("ranpac+mist+drift", "RanPAC + MIST + drift compensation"),
        ("er_ace+mist", "ER-ACE + MIST"),
        ("simplecil+random", "SimpleCIL + MIST (random scores)"),
        ("simplecil+mist-order-7", "SimpleCIL + MIST, order 7"),
        ("my method + more", "my method + more"),
        ("mine", "mine"),
    ],
)
def test_display_name(label, shown):
    assert names.display_name(label) == shown


def test_every_name_is_displayed_as_one_of_its_own():
    labels = [*names.STRATEGIES, *(f"simplecil+{name}" for name in ABLATIONS)]
    shown = [names.display_name(label) for label in labels]
    assert len({*shown}) == len(shown)
    assert not {*labels} & {*shown}
    assert doctest.testmod(names).failed == 0


def test_host_of():
    assert names.host_of("ranpac+mist+drift") == names.host_of("ranpac+no_drop") == "ranpac"
    assert names.host_of("ranpac") is None
    assert names.host_of("ranpac+drift") is None
    assert {f"x+{name}" for name in ABLATIONS if names.host_of(f"x+{name}") != "x"} == set()
