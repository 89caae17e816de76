"""Short experiences, one after the other; ``performance/soak.py`` has more of them."""

import runpy
from pathlib import Path

from mist_avalanche.checkpoint import KEPT

SOAK = runpy.run_path(str(Path(__file__).parent / "performance" / "soak.py"))


def test_memory_files_and_checkpoints_do_not_grow(tmp_path):
    seen = SOAK["soak"]("simplecil", 40, tmp_path)
    memory, files = SOAK["growth"](seen)
    assert memory < 0.05
    assert files <= 0
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"experience-{40 - i:04d}.pt" for i in reversed(range(KEPT))]
