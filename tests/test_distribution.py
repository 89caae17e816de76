"""Wheel and sdist, and the types that a user's checker sees in the installed package."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
# Lines with `# wrong` are errors.
SNIPPET = """
from pathlib import Path
from typing import Any

from avalanche.training.supervised import Naive
from torch import nn, optim

from mist_avalanche import MISTPlugin
from mist_avalanche.benchmarks import SplitFolder, SplitGlyphs
from mist_avalanche.models import create_backbone
from mist_avalanche.runs import RunConfig, run, run_methods
from mist_avalanche.strategies import L2P, RanPAC, SimpleCIL

mist = MISTPlugin(select_rate=0.05, drop_rate=0.9, tune_on="first", view={"flip": 0.0})
MISTPlugin(select_ratio=0.05)  # wrong
MISTPlugin(0.05)  # wrong
MISTPlugin(tune_on="sometimes")  # wrong
MISTPlugin(tune_epochs="20")  # wrong
MISTPlugin.for_backbone("embedded", lr=0.1)
MISTPlugin.for_backbone(96)  # wrong
mist.selektion  # wrong: pyright alone says so, since Avalanche, the base, has no types
losses: list[list[float]] = mist.losses
name: str = mist.losses  # wrong
selection = mist.selection
share: float = selection.fraction if selection is not None else 0.0
selection.fraction  # wrong

backbone: nn.Module = create_backbone("embedded")
create_backbone("embedded", image_sise=32)  # wrong
naive = Naive(model=backbone, optimizer=optim.SGD(backbone.parameters(), 0.1), plugins=[mist])
ranpac = RanPAC(model=backbone, n_random_features=100, eval_mb_size=8, plugins=[mist])
ranpac.train(SplitGlyphs(n_experiences=5).train_stream[0])
RanPAC(model=backbone, n_random_feature=100)  # wrong
SimpleCIL(model=backbone, train_mb_sise=8)  # wrong
SimpleCIL()  # wrong
L2P(model=backbone, top_k="3")  # wrong
SplitGlyphs(n_experience=5)  # wrong
SplitFolder(5, dataset_root="photos")

config = RunConfig(strategy="ranpac", mist=True, mist_args={"lr": 0.1})
RunConfig(strategi="ranpac")  # wrong
results: dict[str, Any] = run(config, "out", loggers=["csv"])
run(config, "out", logger=["csv"])  # wrong
run_methods([(config, Path("out"))], jobs=2)
run_methods([config], jobs=2)  # wrong
"""
LINES = [*enumerate(SNIPPET.splitlines(), 1)]
WRONG = [n for n, line in LINES if "# wrong" in line]
WRONG_TO_MYPY = [n for n, line in LINES if line.endswith("# wrong")]


def call(*command, cwd):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """What `make wheel` writes, of a copy, without downloads."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("mist_avalanche", "pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    done = call("build", "--no-isolation", "--outdir", dist, source, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return dist


@pytest.fixture(scope="module")
def user(dist, tmp_path_factory):
    """A user's folder, and a Python with the wheel and the libraries of this one."""
    folder = tmp_path_factory.mktemp("user")
    assert call("venv", "--without-pip", folder / "env", cwd=folder).returncode == 0
    (site,) = folder.glob("env/lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = dist.glob("*.whl")
    done = call("pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "snippet.py").write_text(SNIPPET)
    return folder, folder / "env" / "bin" / "python"


def test_wheel_and_sdist_are_whole(dist):
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    done = call("twine", "check", "--strict", wheel, sdist, cwd=dist)
    assert done.returncode == 0, done.stdout
    assert "-py3-none-any" in wheel.name
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    weights = "mist_avalanche/models/weights/embedded.safetensors"
    assert names >= {"LICENSE", "README.md", "mist_avalanche/py.typed", weights}


def test_mypy(user):
    folder, python = user
    options = ["--strict", "--python-executable", python, "--cache-dir", folder / "cache"]
    done = call("mypy", *options, "snippet.py", cwd=folder)
    found = re.findall(r"^snippet\.py:(\d+): error: (.*)", done.stdout, re.M)
    untyped = [text for _, text in found if "avalanche" in text and "missing library stubs" in text]
    assert len(untyped) == 1, done.stdout  # avalanche itself
    wrong = {int(line) for line, text in found if text not in untyped}
    assert sorted(wrong) == WRONG_TO_MYPY, done.stdout


def test_pyright(user):
    folder, python = user
    done = call("pyright", "--pythonpath", python, "snippet.py", cwd=folder)
    found = re.findall(r"snippet\.py:(\d+):\d+ - error", done.stdout)
    assert sorted({int(line) for line in found}) == WRONG, done.stdout + done.stderr
