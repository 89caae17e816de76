import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import CASES, outcome
from torch import nn

from mist_avalanche._support.distributed import gather_rows, join_rows, share
from mist_avalanche.method import objective

TESTS = Path(__file__).parents[1]


def torchrun(n, *arguments):
    """Some processes on this machine; its result."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={n}", str(TESTS / "distributed_worker.py"), *arguments),
    ]
    paths = f"{TESTS}{os.pathsep}{TESTS.parent}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def single():
    return {case: outcome(case) for case in CASES}


def test_processes_give_the_numbers_of_one(single, tmp_path):
    n, cases = 3, [*CASES]
    done = torchrun(n, ",".join(cases), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"{k}.pt", weights_only=True) for k in range(n)]
    for case in cases:
        one = single[case]
        for of_rank in ranks:
            found = of_rank[case]
            assert found["metrics"] == one["metrics"]
            torch.testing.assert_close(found["losses"], one["losses"], atol=0, rtol=1e-6)
            for name, mask in one["masks"].items():
                assert torch.equal(found["masks"][name], mask), name
            for name, weight in one["weights"].items():
                if name.startswith("backbone"):
                    torch.testing.assert_close(
                        found["weights"][name], weight, atol=1e-5, rtol=0, msg=name
                    )
            for name, weight in ranks[0][case]["weights"].items():
                assert torch.equal(found["weights"][name], weight), name
        # every test image passed through the backbone of one process, once
        passed = torch.cat([of_rank[case]["evaluated"] for of_rank in ranks])
        assert torch.equal(passed.sort().values, one["evaluated"].sort().values)
        assert max(len(of_rank[case]["evaluated"]) for of_rank in ranks) < len(passed)


def test_an_error_in_one_process_ends_all(tmp_path):
    done = torchrun(2, "fail", str(tmp_path))
    assert done.returncode != 0
    assert "this process has had an accident" in done.stderr
    assert not list(tmp_path.iterdir())


def test_batch_norm_needs_the_whole_batch(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    objective._check_processes(model)
    monkeypatch.setattr(objective, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"BatchNorm \('1'\).*convert_sync_batchnorm"):
        objective._check_processes(model)
    objective._check_processes(nn.SyncBatchNorm.convert_sync_batchnorm(model))


def test_a_process_alone_has_everything():
    x = torch.arange(6.0, requires_grad=True)
    assert gather_rows(x) is x
    assert join_rows(x) is x
    assert share(5) == range(5)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 100])
def test_shares_are_everything_once(monkeypatch, world, n):
    monkeypatch.setattr("mist_avalanche._support.distributed.world_size", lambda: world)
    parts = [list(share(n, k)) for k in range(world)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
