"""About how long a run takes: its images, times the measured time of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import timm
import torch

from ..models.backbones import check_backbone, tiny_vit
from ..models.forward import Forward
from .config import BENCHMARKS, RunConfig
from .experiments import default_jobs
from .runner import choose_device
from .work import PAPER_HOSTS, Work, work_of

_BATCH = {"cpu": 8}  # images measured at a time, by kind of device; else 64
_PASSES = 3


def estimate(config: RunConfig) -> Work:
    """The work of a whole run on one of the paper's hosts, from the numbers of its images.

    Raises:
        ValueError: the strategy is another one, or RanPAC has a first session.
    """
    if config.strategy not in PAPER_HOSTS or config.strategy_args.get("first_session"):
        raise ValueError(
            f"There is an estimate for {', '.join(PAPER_HOSTS)}, without first session, not for "
            f"{config.label}."
        )
    benchmark = BENCHMARKS[config.benchmark](config)
    train, test = (
        [len(experience.dataset) for experience in stream[: config.first]]
        for stream in (benchmark.train_stream, benchmark.test_stream)
    )
    work = work_of(config, train, test)
    forward, backward = sum(w.forward for w in work), sum(w.backward for w in work)
    return Work(work[0].epochs, work[0].mist_epochs, forward, backward)


def seconds_an_image(config: RunConfig) -> tuple[float, float]:
    """Measured on random images: one forward, and one forward and backward.

    The backbone has random weights, which take as long as those of the pretraining; nothing is
    fetched. It has the threads that a run has beside others, one a core.
    """
    name, size = check_backbone(config.backbone, config.weights, config.image_size)
    model = tiny_vit() if name is None else timm.create_model(name, num_classes=0, **size)
    device = choose_device(config.device)
    model, run = model.to(device), Forward(config.precision)
    side = config.inputs["image_size"]
    x = torch.rand(_BATCH.get(device.type, 64), 3, side, side, device=device)

    def forward() -> None:
        with torch.no_grad():
            run(model, x)

    def both() -> None:
        run(model, x).sum().backward()  # type: ignore[no-untyped-call]

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // default_jobs(config.device)))
    try:
        return _seconds(forward, device) / len(x), _seconds(both, device) / len(x)
    finally:
        torch.set_num_threads(threads)


def _seconds(passes: Callable[[], None], device: torch.device) -> float:
    """The median of a few, after one that does not count."""
    found = []
    for _ in range(_PASSES + 1):
        began = time.perf_counter()
        passes()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return median(found[1:])
