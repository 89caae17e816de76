import pytest

from mist_avalanche._support import memory_use as _memory_use
from mist_avalanche._support.memory_use import available_memory

NAMES = {
    "0::": ("", "memory.max", "memory.current", "inactive_file"),
    "4:cpu,memory:": (
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("line", NAMES)
def test_available_memory_of_a_job(tmp_path, monkeypatch, line):
    root, limit, used, cached = NAMES[line]
    machine = available_memory()
    assert 0 < machine < 2**50
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/else\n{line}/jobs/7\n")
    monkeypatch.setattr(_memory_use, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(_memory_use, "_CGROUPS", tmp_path)
    assert available_memory() > 2**20  # no such group is seen from here
    for group, allowed in (("jobs", 1_000_000), ("jobs/7", "max")):
        folder = tmp_path / root / group
        folder.mkdir(parents=True)
        (folder / limit).write_text(f"{allowed}\n")
        (folder / used).write_text("300000\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached} 100000\n")
    assert available_memory() == 800_000
    (tmp_path / root / "jobs" / limit).write_text("200000")
    assert available_memory() == 0
