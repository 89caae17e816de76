import os
import subprocess
import sys
from pathlib import Path

import torch
from prompts_worker import CASES, outcome

TESTS = Path(__file__).parents[1]


def test_processes_give_the_numbers_of_one(tmp_path):
    n = 2
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={n}", str(TESTS / "prompts_worker.py"), str(tmp_path)),
    ]
    paths = f"{TESTS}{os.pathsep}{TESTS.parent}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(n)]
    for case in CASES:
        one = outcome(case)
        for of_rank in ranks:
            assert of_rank[case]["metrics"] == one["metrics"]
            for name, weight in one["weights"].items():
                torch.testing.assert_close(
                    of_rank[case]["weights"][name], weight, atol=1e-4, rtol=0, msg=name
                )
                assert torch.equal(of_rank[case]["weights"][name], ranks[0][case]["weights"][name])
            assert of_rank[case]["images"] < 0.7 * one["images"]
