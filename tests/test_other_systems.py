"""Systems without what only POSIX has: here, Python without ``fcntl`` and ``resource``."""

import json
import os
import subprocess
import sys
from pathlib import Path

from data_layouts import class_folders, photos

RUN = """
import sys
import psutil  # which Avalanche imports, and which needs them on Linux alone
sys.modules.update(dict.fromkeys(("fcntl", "resource")))  # None: importing them fails
from mist_avalanche.cli import command as cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_run_without_fcntl_and_resource(tmp_path):
    class_folders(tmp_path / "imagenet-r", photos())
    arguments = ["run", "--benchmark", "imagenet-r", "--dataset-root", str(tmp_path)]
    arguments += ["--output", str(tmp_path / "out"), "--experiences", "2", "--quiet"]
    arguments += ["--jobs", "1"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    here |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, env=here
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(written["accuracy"]) == 2
    assert not list((tmp_path / "out").glob(".*.lock"))
