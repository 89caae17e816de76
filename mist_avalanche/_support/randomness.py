"""Random numbers: seeds for purposes, and the global generators left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *path: int) -> int:
    """A seed for one purpose: statistically independent for different paths of integers."""
    state = np.random.SeedSequence([seed % 2**63, *path]).generate_state(1, np.uint64)
    return int(state[0]) % 2**63


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """python's, numpy's and torch's global generators seeded inside, as they were afterwards.

    Of torch's, the CPU's and the given device's; those of other devices are left alone.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        _seed_host(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def rng_state() -> dict[str, Any]:
    """The state of python's, numpy's and torch's global generators, as plain data."""
    numpy: Any = np.random.get_state(legacy=False)
    inner = {**numpy["state"], "key": numpy["state"]["key"].tolist()}
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": inner},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(saved: dict[str, Any]) -> None:
    """Continue the global random streams of :func:`rng_state`."""
    inner = saved["numpy"]["state"]
    if not 0 <= inner["pos"] <= len(inner["key"]) == 624:  # which numpy does not check
        raise ValueError("a random generator is at an impossible position")
    np.random.set_state(saved["numpy"])
    random.setstate(saved["python"])
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"].cpu())


def _seed_host(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
