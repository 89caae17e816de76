"""The rooms of the package: imports go down the list only, never into another's private parts."""

import ast
from pathlib import Path

import pytest

import mist_avalanche

PACKAGE = Path(mist_avalanche.__file__).parent
# from the top floor down; a room may import those below it
FLOORS = (
    "cli",
    "runs",
    "reports",
    "strategies",
    "benchmarks",
    "plugin",
    "method",
    "deltas",
    "models",
    "_support",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    return file.relative_to(PACKAGE).with_suffix("").parts


def imports(file):
    """What a file imports of the package, as parts of a path; those for type checkers too."""
    here = module_of(file)[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield (*base, alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mist_avalanche."):
            yield tuple(node.module.split(".")[1:])


@pytest.mark.parametrize("file", FILES, ids=lambda f: "/".join(module_of(f)))
def test_imports_go_down(file):
    here = module_of(file)
    if here[0] not in FLOORS:  # __init__, __main__, _version
        return
    for target in imports(file):
        room = target[0]
        if room == here[0] or room not in FLOORS:
            continue
        assert FLOORS.index(room) > FLOORS.index(here[0]), f"{'.'.join(target)} is above"
        private = [part for part in target[1:] if part.startswith("_")]
        assert not private, f"{'.'.join(target)} is private to {room}"


def test_every_room_says_what_lives_there():
    for room in (f for f in FLOORS if f != "plugin"):
        text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert len(text) > 60, room


def test_files_are_short_and_the_top_has_few_entries():
    long = {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 300}
    assert not long
    entries = [p for p in PACKAGE.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= 14
