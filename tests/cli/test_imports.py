"""What waits for nothing: help and a listing import neither torch nor Avalanche."""

import json
import subprocess
import sys

import pytest

import mist_avalanche
from mist_avalanche.strategies import names, registry

HEAVY = {"torch", "torchvision", "timm", "avalanche", "matplotlib", "scipy", "pandas"}
RUN = """
import contextlib, io, json, sys
from mist_avalanche.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    try:
        main(sys.argv[1:])
    except SystemExit as end:
        assert end.code == 0, end.code
print(json.dumps([shown.getvalue(), sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version"], mist_avalanche.__version__),
        (["--help"], "ablate"),
        (["run", "--help"], "streaming_lda"),
        (["compare", "--help"], "+mist"),
        (["delta", "apply", "--help"], "--base"),
        (["data", "list"], "cub200"),
        (["data", "list", "--root", "."], "cub200"),
    ],
    ids=" ".join,
)
def test_without_torch(tmp_path, arguments, says):
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    shown, modules = json.loads(done.stdout)
    assert says in shown
    assert not HEAVY & {*modules}


def test_the_names_that_are_offered_are_those_that_are_built():
    assert tuple(registry.OWN_STRATEGIES) == tuple(names.OWN_STRATEGIES)
    assert tuple(registry.BASELINES) == names.BASELINES


@pytest.mark.parametrize("room", ["", ".models", ".strategies", ".benchmarks", ".runs"])
def test_rooms_have_what_they_say(room):
    module = sys.modules.get(f"mist_avalanche{room}") or __import__(
        f"mist_avalanche{room}", fromlist=["_"]
    )
    assert {*module.__all__} <= {*dir(module)}
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
